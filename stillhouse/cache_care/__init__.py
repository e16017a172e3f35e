"""Looking after a cache folder: what lies in it, whether it is whole, and what may go.

``items.py`` says what is there: stores of answers, fine-tuned teachers, and what killed processes left. ``checking.py``
compares every record with its checksum, ``pruning.py`` deletes what has not been used for long or does not fit, and
``commands.py`` makes commands of the three.
"""
