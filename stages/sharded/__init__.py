"""A model in parts, one on each process of a launch.

In: a model folder, a device mesh. Out: a sharded scorer filled from the files, checkpoints in parts, a policy's folder
written part by part.
"""
