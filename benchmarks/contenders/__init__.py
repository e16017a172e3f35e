"""Who takes part in the comparison of speed: each module is a program, ``python -m MODULE JOB_FOLDER VARIANT``."""
