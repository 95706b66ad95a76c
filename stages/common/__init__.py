"""What every stage needs: paths, atomic files, locks, manifests, progress.

In: paths and plain values. Out: files that are whole or absent.
"""
