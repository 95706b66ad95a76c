"""Datasets and prepared pairs on disk.

In: dataset names, files and folders. Out: raw rows in batches, token ids by memory map, pair tables with everything
known about a pair, and manifests that are checked against their files and the run file.
"""
