import pytest

from scoreonce.schemas.addresses import is_address, require_address, scheme_of, without_credentials
from scoreonce.schemas.errors import InputError


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("s3://bucket/a/b/", "s3://bucket/a/b"),
        ("gs://bucket", "gs://bucket"),
        ("hf://datasets/org/name@main/x.jsonl", "hf://datasets/org/name@main/x.jsonl"),
        ("file:///data/x.jsonl", "file:///data/x.jsonl"),
    ],
)
def test_what_is_read(given, kept):
    assert require_address(given) == kept
    assert is_address(given)
    assert scheme_of(given) == given[: given.index(":")]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("ftp://host/x", "not read; these are: s3://, gs://, hf://, file://"),
        ("zip://x::s3://bucket/y", "not read"),
        ("s3://bucket/y::zip://x", "not read"),
        ("s3://key:secret@bucket/x", "may hold credentials"),
        ("s3://key:sec/ret@bucket/x", "may hold credentials"),
        ("s3://bucket/x?versionId=1", "may hold credentials"),
        ("file://x/y", "the whole path"),
        ("s3://", "no bucket"),
        ("s3:///", "no bucket"),
        ("file:///", "no bucket or folder"),
    ],
)
def test_what_is_not(given, reason):
    with pytest.raises(ValueError, match=reason):
        require_address(given)


def test_no_error_shows_a_password():
    assert without_credentials("a s3://k:p/w@x b") == "a s3://***@x b"
    assert without_credentials("hf://datasets/o/n@main") == "hf://datasets/o/n@main"
    assert without_credentials("http://127.0.0.1:90/a@b") == "http://127.0.0.1:90/a@b"
    error = InputError("x", found="'s3://key:secret@bucket/x'", where="https://h/x?sig=abc, or", fix="y")
    assert (error.found, error.where) == ("'s3://***@bucket/x'", "https://h/x?*** or")
