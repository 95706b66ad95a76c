"""Configurations of other tools as run files: TRL, Axolotl, LLaMA-Factory.

In: the YAML or JSON file that the tool reads. Out: lines of a run file, and for every other key of the file why it is
not needed here, why it is not supported, or that it is unknown.
"""
