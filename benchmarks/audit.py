"""How fast an audit is and what it misses: generated pairs with planted flaws of known number, and sequence columns.

    python benchmarks/audit.py [--pairs 1000000] [--scored 10000000]

Writes benchmarks/results/audit.json and audit.md. Each measured part runs in a process of its own, for its peak memory;
both wall-clock and CPU seconds are given, because only the latter mean much where something else runs beside.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from scoreonce.schemas import identity
from scoreonce.stages import audit
from scoreonce.stages.config import Run
from scoreonce.stages.files import parquet_options, read_json, sha256, write_json
from scoreonce.stages.layout import Layout
from scoreonce.stages.pair_files import arrow_schema, ids_array
from scoreonce.schemas.tables import Pair, PairTokens

RESULTS = Path(__file__).parent / "results"
