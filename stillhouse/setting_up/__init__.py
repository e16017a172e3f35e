"""Before the first run: a recipe for one's own data (``stillhouse init``), and a look at the machine (``doctor``).

    commands.py      the commands
    new_recipe.py    from answers to a recipe         looking.py      what a data file seems to hold
    questions.py     who answers the questions        recipe_text.py  the recipe's text, with comments
    advice.py        what to know about one's data    doctor.py       what is around, good and bad
    suggestions.py   teachers and students to begin with

Nothing heavy is imported at the top of ``commands.py``.
"""

from __future__ import annotations
