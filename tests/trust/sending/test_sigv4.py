"""Our signature is the one that AWS's own library makes."""

from datetime import UTC, datetime

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as Theirs

from cloister.trust.sending import sigv4
from cloister.trust.sending.sigv4 import Credentials, query_string

AT = datetime(2026, 5, 1, 12, 0, 3, tzinfo=UTC)


@pytest.mark.parametrize(
    ("method", "path", "query", "headers", "body"),
    [
        ("PUT", "/log/events/1-2.ndjson", {}, {"Content-Type": "text/plain", "x-amz-object-lock-mode": "COMPLIANCE"}, b"x"),
        ("GET", "/bucket/", {"versions": "", "prefix": "log/a b+c", "key-marker": "é/&="}, {}, b""),
        ("GET", "/log/x", {"versionId": "3/L4kqtJl~40+"}, {"x-amz-meta": "  two   spaces "}, b""),
    ],
)  # fmt: skip
def test_it_signs_as_botocore_does(
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    path: str,
    *,
    query: dict[str, str],
    headers: dict[str, str],
    body: bytes,
) -> None:
    said = {"Host": "store.example.com:9000", **headers}
    given = sigv4.signed(
        Credentials("AKID", "secret", "eu-central-1"), AT, method, path, query=query, headers=said, body=body
    )
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda **_: AT)
    url = f"https://store.example.com:9000{path}" + (f"?{query_string(query)}" if query else "")
    theirs = AWSRequest(method=method, url=url, headers=headers, data=body)
    theirs.context["payload_signing_enabled"] = True
    S3SigV4Auth(Theirs("AKID", "secret"), "s3", "eu-central-1").add_auth(theirs)
    assert given["Authorization"] == theirs.headers["Authorization"]
