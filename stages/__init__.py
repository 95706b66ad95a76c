"""Where the pipeline reads and writes: one file per stage, and the command line."""
