"""The first run file: from a look at model and data, or from the configuration of another tool.

In: a model, data and a method; or a configuration of TRL, Axolotl or LLaMA-Factory. Out: a run file with a comment at
each line that says why, and what there is to know about it.
"""
