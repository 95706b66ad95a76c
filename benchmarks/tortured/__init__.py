"""The parts of torture.py: a small finished run, the stages that read it, and what becomes of a damaged file."""
