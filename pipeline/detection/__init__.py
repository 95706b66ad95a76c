"""What the columns of a dataset mean.

In: the names of the columns, the first rows, and what the run file says of them. Out: the format, the column or columns
of each role, and what was decided. Whatever cannot be told for certain is refused, with the mapping to write.
"""
