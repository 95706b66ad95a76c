"""Files at an address (fsspec): object stores and other file systems that are not the local disk.

In: an address such as s3://bucket/folder. Out: its files, listed, read, written and removed with bounded retries, and
a local copy of data; what cannot be reached is an `InputError` that holds no credentials.
"""
