"""Room for compiled code: by default Dynamo keeps 8 versions of a function and then runs it unfused, saying nothing."""

from __future__ import annotations

import torch

# Line lengths (eight), chunk lengths (two), with gradient, without, in inference mode; a second model beside the first.
VERSIONS = 64


def make_room() -> None:
    """Let every function have `VERSIONS` compiled versions, in this thread: autograd's are others."""
    if torch._dynamo.config.recompile_limit < VERSIONS:
        torch._dynamo.config.recompile_limit = VERSIONS
