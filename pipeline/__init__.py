"""How the work is done: pure functions on text, tensors and tables.

Opens no file, prints nothing, reads no environment; imports `schemas` alone.
"""
