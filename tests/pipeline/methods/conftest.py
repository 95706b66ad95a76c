"""Lets the tests in this folder import `method_batches` beside them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
