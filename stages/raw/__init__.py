"""Raw datasets: files and folders of any readable kind, compressed or not, and datasets of the Hub.

In: dataset names, files and folders. Out: raw rows in batches, and what identifies the files that they came from.
"""
