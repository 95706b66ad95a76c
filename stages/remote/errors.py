"""What a user is told where an address cannot be used; credentials are in none of it."""

from __future__ import annotations

import os
import re

from scoreonce.schemas.addresses import EXTRAS, PACKAGES, scheme_of, without_credentials
from scoreonce.schemas.errors import InputError, first_line
from scoreonce.stages.remote.retries import may_pass

_SECRET = re.compile(r"KEY|SECRET|TOKEN|PASSWORD|CREDENTIAL|SIGNATURE|CONNECTION_STRING", re.IGNORECASE)
_SHORTEST = 6  # characters of a value that can be a secret: "1" or "true" are in every text


def without_secrets(text: str) -> str:
    """A text without credentials: those in addresses, and the values of variables whose names say they hold some."""
    values = {value for name, value in os.environ.items() if _SECRET.search(name) and len(value) >= _SHORTEST}
    for value in sorted(values, key=len, reverse=True):
        text = text.replace(value, "***")
    return without_credentials(text)


def unusable(error: Exception, address: str, doing: str, tries: int) -> InputError:
    """The error for the last failure of `tries` tries at `doing` something at an address: "read", "write", "list"."""
    words, scheme = without_secrets(first_line(error)), scheme_of(address)
    if isinstance(error, ImportError):
        extra = f"pip install 'scoreonce[{EXTRAS[scheme]}]'" if scheme in EXTRAS else f"pip install {PACKAGES[scheme]}"
        return InputError(
            f"Addresses that begin with {scheme}:// need the package {PACKAGES[scheme]}.",
            found=words,
            where=address,
            fix=f"Install it: {extra}.",
        )
    if isinstance(error, FileNotFoundError):
        what, fix = "There is nothing at an address.", _ABSENT.get(scheme, "Correct the address, or make the bucket.")
    elif not may_pass(error):
        what = f"An address cannot be {_PAST[doing]}."
        fix = f"Give credentials that may {doing} there: {_CREDENTIALS[scheme]}."
    else:
        what, words = f"An address cannot be {_PAST[doing]}.", f"{words} (the last of {tries} tries)"
        other = f" ({_SERVICES[scheme]} names another one)" if scheme in _SERVICES else ""
        fix = (
            f"Check the network, and whether the service is up{other}. Then run the same command again: what was "
            "finished stays, and it goes on from there."
        )
    return InputError(what, found=words, where=without_secrets(address), fix=fix)


_ABSENT = {
    "hf": "Correct the address, or make the repository. A private one needs a token: HF_TOKEN, or `hf auth login`.",
    "file": "Correct the address, or make the folder.",
}
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, and for another provider AWS_ENDPOINT_URL",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or `gcloud auth application-default login`",
    "hf": "HF_TOKEN, or `hf auth login`",
    "file": "those of a user who has the permission",
}
_SERVICES = {"s3": "AWS_ENDPOINT_URL", "hf": "HF_ENDPOINT"}  # variables
_PAST = {"list": "listed", "read": "read", "write": "written", "delete": "deleted"}
