"""The statement log: what was sealed comes back, and what was changed since is told."""

import pytest

from cloister.base.directory import StatementRecord
from cloister.base.errors import ConflictError
from cloister.base.secret import Secret
from cloister.trust.audit.statements import Sealer


def record(project: str, text: str = "SELECT 1") -> StatementRecord:
    return StatementRecord(
        at="2026-01-01T00:00:00.000000Z", session_id="s", project_id=project, branch_id="b", endpoint_id="e", role="ada",
        database="app", address="192.0.2.1", kind="simple", outcome="done", text=text,
    )  # fmt: skip


def test_a_segment_opens_with_the_key_of_its_project_only() -> None:
    sealer, some = Sealer(Secret(b"k" * 32)), [record("p", "SELECT 'Bob'"), record("p", "line\nbreak")]
    body = sealer.seal("p", some)
    assert b"Bob" not in body
    assert sealer.open("p", body) == some
    for project, key, changed in (
        ("q", b"k", body),
        ("p", b"x", body),
        ("p", b"k", body[:-1] + b"\0"),
        ("p", b"k", b""),
    ):
        with pytest.raises(ConflictError):
            Sealer(Secret(key * 32)).open(project, changed)
