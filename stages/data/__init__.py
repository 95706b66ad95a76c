"""Datasets and prepared pairs on disk.

In: dataset names, files and folders. Out: raw rows in batches, token ids by memory map, and pair tables with every
column known about a pair.
"""
