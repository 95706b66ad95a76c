"""Where files are read and written: the stages, the command line and the public package."""

import logging

# Without a handler, Python would print a library's warnings to stderr. `common.messages.verbose` shows them.
logging.getLogger("scoreonce").addHandler(logging.NullHandler())
