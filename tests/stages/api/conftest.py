"""The package as a program uses it: nothing is shown unless asked."""

import pytest


@pytest.fixture(autouse=True)
def messages_shown() -> None:
    """In place of the fixture of the folder above, which shows them."""
