"""What reaches the terminal."""

import subprocess
import sys


def test_the_command_line_shows_errors_of_noisy_imports_and_not_their_warnings():
    code = (
        "import logging; from scoreonce.stages.cli import run_command; run_command(['methods', 'dpo']); "
        "kernels = logging.getLogger('torchao.kernels'); kernels.warning('not found'); kernels.error('broken')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "broken\n"
