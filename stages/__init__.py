"""Where files are read and written: the stages, the command line and the public package."""
