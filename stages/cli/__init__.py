"""The command line: `scoreonce STAGE RUN.toml`. Each command loads the run file and calls its stage, nothing more.

Stages are imported inside the commands, after the run file has been checked: importing torch takes seconds, and neither
`scoreonce --help` nor the error for a misspelt key should wait for it.

Exit codes: 0 done; 1 a fault in scoreonce, with a traceback; 2 unusable input, with a four-part message; 3 an audit
found what --fail-on names, or doctor what would stop a stage; 130 interrupted.

In: arguments. Out: an exit code, and what the stages write.
"""

from scoreonce.stages.cli.command_line import app, main, run_command

__all__ = ["app", "main", "run_command"]
