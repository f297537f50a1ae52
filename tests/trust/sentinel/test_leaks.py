"""What a log must not hold is found in it, and nothing else is."""

import pytest

from cloister.base.secret import new_api_key, new_password
from cloister.trust.sentinel import leaks

VERIFIER = "SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0c2FsdA==$c3RvcmVk:c2VydmVy"


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (f"Authorization: Bearer {new_api_key().reveal()}", "an API key"),
        (f"postgresql://app:{new_password().reveal()}@ep-x.db.test/shop", "a connection string with its password"),
        (f"STATEMENT:  alter role app PASSWORD '{new_password().reveal()}';", "a password in a statement"),
        (f"verifier={VERIFIER}", "a password's verifier"),
        ("-----BEGIN EC PRIVATE KEY-----", "a private key"),
        ("-----BEGIN PRIVATE KEY-----", "a private key"),
    ],
)
def test_a_secret_is_found_where_it_stands(line: str, kind: str) -> None:
    text = f"2026-11-29 INFO nothing\n{line}\n{line}\n".encode()
    ((found, where, count),) = leaks.found(text)
    assert (found, count) == (kind, 2)
    assert text.index(line.encode()) <= where < text.index(line.encode()) + len(line)


@pytest.mark.parametrize(
    "line",
    [
        "key napi_abcd of alice was revoked",
        "postgresql://app@ep-x.db.test/shop",
        "postgresql://app:********@ep-x.db.test/shop",
        "https://example.org:8443/@someone",
        "password 'x'",
        "FATAL:  password authentication failed for user 'app'",
        "SCRAM-SHA-256-PLUS is offered",
        "-----BEGIN CERTIFICATE-----",
        "-----BEGIN PUBLIC KEY-----",
    ],
)
def test_what_only_looks_like_one_is_not(line: str) -> None:
    assert list(leaks.found(line.encode())) == []
