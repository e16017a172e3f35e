"""Write docs/recipe.schema.json, with which editors complete recipes: ``python scripts/recipe_schema.py``.

A test compares.
"""

from __future__ import annotations

from pathlib import Path

from stillhouse.recipe.json_schema import schema_text

FILE = Path(__file__).parents[1] / "docs" / "recipe.schema.json"

if __name__ == "__main__":
    FILE.write_text(schema_text(), encoding="utf-8")
