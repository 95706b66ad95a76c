"""What every stage needs: paths, atomic files, locks, progress, method files.

In: paths and plain values. Out: files that are complete or absent.
"""
