"""Datasets and prepared pairs on disk.

In: dataset names, files and folders. Out: raw rows in batches, token ids by memory map, and pair tables with
everything known about a pair.
"""
