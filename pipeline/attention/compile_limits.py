"""A higher limit of recompilations: by default Dynamo silently stops compiling a function after 8 versions."""

from __future__ import annotations

import torch

# 8 sequence lengths, 2 chunk lengths, with gradient, without, in inference mode; a second model beside the first.
VERSIONS = 64


def make_room() -> None:
    """Allow `VERSIONS` compiled versions per function in this thread; autograd's threads have limits of their own."""
    if torch._dynamo.config.recompile_limit < VERSIONS:
        torch._dynamo.config.recompile_limit = VERSIONS
