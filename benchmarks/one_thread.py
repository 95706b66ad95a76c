"""Importing this limits libraries to one thread, if it comes before them: a fork has no threads of its parent."""

import os

for name in ("OMP_NUM_THREADS", "POLARS_MAX_THREADS", "RAYON_NUM_THREADS"):
    os.environ[name] = "1"
