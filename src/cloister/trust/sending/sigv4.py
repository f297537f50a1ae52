"""AWS Signature Version 4, for S3 and those that speak like it. Pure.

(1) the canonical request: method, path, query, headers, names of the headers, the body's digest
(2) what is signed: the time, the scope, the digest of 1.
(3) a key for this day, region and service, from the secret
(4) the header that carries all of it
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import quote

_ALGORITHM: Final = "AWS4-HMAC-SHA256"
_SERVICE: Final = "s3"


@dataclass(frozen=True, slots=True)
class Credentials:
    key_id: str
    secret: str
    region: str


def query_string(query: Mapping[str, str]) -> str:
    """As it is signed, and so as it is sent."""
    return "&".join(f"{quote(name, safe='-_.~')}={quote(value, safe='-_.~')}" for name, value in sorted(query.items()))


def signed(
    credentials: Credentials,
    at: datetime,
    method: str,
    path: str,
    *,
    query: Mapping[str, str],
    headers: Mapping[str, str],
    body: bytes,
) -> dict[str, str]:
    """`headers` and those that sign them. `path` is already as it goes over the wire; `headers` have the Host."""
    moment, digest = at.strftime("%Y%m%dT%H%M%SZ"), hashlib.sha256(body).hexdigest()
    said = {**headers, "x-amz-date": moment, "x-amz-content-sha256": digest}
    lower = {name.lower(): " ".join(value.split()) for name, value in said.items()}
    names = ";".join(sorted(lower))
    # 1.
    lines = [method, path, query_string(query), *(f"{name}:{lower[name]}" for name in sorted(lower)), "", names, digest]
    # 2.
    scope = f"{moment[:8]}/{credentials.region}/{_SERVICE}/aws4_request"
    text = "\n".join([_ALGORITHM, moment, scope, hashlib.sha256("\n".join(lines).encode()).hexdigest()])
    # 3.
    key = f"AWS4{credentials.secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    # 4.
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    said["Authorization"] = (
        f"{_ALGORITHM} Credential={credentials.key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return said
