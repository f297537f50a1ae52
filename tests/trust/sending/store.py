"""A store that speaks like S3, over TLS, with object lock: moto. It looks at no signature; `test_sigv4.py` does. What each credential
may do stands before it, for moto knows no policies.
"""

import base64
import hashlib
import io
import re
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import boto3
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.s3.models import S3Backend
from werkzeug.serving import make_server

from cloister.node.backups.store import Key
from cloister.node.backups.store import Store as BackupStore
from cloister.trust.audit.targets import S3, Witness

BUCKET: Final = "kept-elsewhere"

WRITER, READER = "the-writer", "the-reader"
RIGHTS: Final = {WRITER: {"put"}, READER: {"get", "list", "look"}}
"""As docs/backups.md has them. Whoever is none of these may everything."""

_LOOKS: Final = {"versioning", "object-lock", "lifecycle", "encryption"}


class Door:
    """Refuses what a credential may not do, what has no checksum or is not what it says, and shorter locks; notes what was asked, and fails when
    it is told to."""

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self._app = app
        self.rights = {name: set(may) for name, may in RIGHTS.items()}
        self.asked: list[tuple[str, str]] = []
        """By whom, and what."""
        self.failures: list[int] = []
        """Statuses of the next answers."""

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        match = re.search(r"Credential=([^/]+)/", environ.get("HTTP_AUTHORIZATION", ""))
        who, what = match[1] if match else "", self._what(environ)
        if who in self.rights:
            self.asked.append((who, what))
            body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            environ["wsgi.input"] = io.BytesIO(body)
            if self.failures:
                return self._answer(start, self.failures.pop(0), "")
            if what not in self.rights[who]:
                return self._answer(start, 403, "AccessDenied")
            if what == "put" and environ.get("HTTP_X_AMZ_CHECKSUM_SHA256") != sha256(body):
                return self._answer(start, 400, "BadDigest")
            if what == "retain" and self._loosens(environ, body.decode()):
                return self._answer(start, 403, "AccessDenied")
        return self._app(environ, start)

    def _loosens(self, environ: dict[str, Any], wanted: str) -> bool:
        """A lock in the mode COMPLIANCE only grows; moto would let it go."""
        query = "&".join(word for word in environ["QUERY_STRING"].split("&") if word.startswith("versionId"))
        asking = environ | {
            "REQUEST_METHOD": "HEAD",
            "QUERY_STRING": query,
            "CONTENT_LENGTH": "0",
            "wsgi.input": io.BytesIO(),
        }
        said: dict[str, str] = {}
        list(
            self._app(asking, lambda _status, headers, *_: said.update({name.lower(): text for name, text in headers}))
        )
        if said.get("x-amz-object-lock-mode") != "COMPLIANCE":
            return False
        until = re.search(r"<RetainUntilDate>(\S+)</RetainUntilDate>", wanted)
        return (
            "<Mode>COMPLIANCE</Mode>" not in wanted
            or until is None
            or datetime.fromisoformat(until[1]) < datetime.fromisoformat(said["x-amz-object-lock-retain-until-date"])
        )

    @staticmethod
    def _what(environ: dict[str, Any]) -> str:
        asked = {word.partition("=")[0] for word in environ.get("QUERY_STRING", "").split("&")}
        match environ["REQUEST_METHOD"]:
            case "GET" | "HEAD":
                return "look" if asked & _LOOKS else "list" if "versions" in asked else "get"
            case "PUT":
                return "retain" if "retention" in asked else "put"
            case other:
                return str(other).lower()

    @staticmethod
    def _answer(start: Callable[..., Any], status: int, code: str) -> list[bytes]:
        body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
        start(f"{status} No", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [body]


def sha256(body: bytes) -> str:
    return base64.b64encode(hashlib.sha256(body).digest()).decode()


class Store:
    """`client` is whoever holds the credentials, or has stolen them."""

    def __init__(self, port: int, certificate: Path, door: Door) -> None:
        self.certificate = certificate
        self.door = door
        self.endpoint = f"https://127.0.0.1:{port}"
        self.client: Any = boto3.client(
            "s3", region_name="eu-central-1", endpoint_url=self.endpoint, verify=str(certificate),
            aws_access_key_id="testing", aws_secret_access_key="testing",
        )  # fmt: skip

    def make(self, bucket: str = BUCKET, *, locks: bool = True) -> None:
        where = {"LocationConstraint": "eu-central-1"}
        self.client.create_bucket(Bucket=bucket, CreateBucketConfiguration=where, ObjectLockEnabledForBucket=locks)

    def given(self, **changes: Any) -> dict[str, Any]:
        return {
            "name": "kept", "bucket": BUCKET, "prefix": "log/", "region": "eu-central-1", "endpoint": self.endpoint,
            "key_id": "testing", "secret_key": "testing", "ca_file": str(self.certificate), "private": True, **changes,
        }  # fmt: skip

    def witness(self, **changes: Any) -> Witness:
        return Witness(**self.given(**changes))

    def s3(self, **changes: Any) -> S3:
        return S3(**self.given(after=0, **changes))

    def for_backups(self, **changes: Any) -> BackupStore:
        given: dict[str, Any] = {
            "bucket": BUCKET, "prefix": "db/", "region": "eu-central-1", "endpoint": self.endpoint,
            "writer": Key(WRITER, "w"), "reader": Key(READER, "r"), "ca_file": str(self.certificate), "private": True,
        }  # fmt: skip
        return BackupStore(**(given | changes))


_versions: Final = S3Backend.list_object_versions


def _behind_a_place(self: S3Backend, bucket_name: str, *, key_marker: str | None = None, **asked: Any) -> Any:
    """As S3 lists what is behind a key that need not be there. moto leaves the first key behind it out, which it takes for that one."""
    if key_marker is not None and not asked.get("version_id_marker"):
        kept = self.get_bucket(bucket_name).keys
        before = max((name for name in kept if name <= key_marker), default=None)
        key_marker, asked["version_id_marker"] = before, None
        if before is not None:
            oldest = min(kept.getlist(before), key=lambda version: version.last_modified)
            asked["version_id_marker"] = oldest.version_id
    return _versions(self, bucket_name, key_marker=key_marker, **asked)


@contextmanager
def a_store(certificate: Path) -> Iterator[Store]:
    """`certificate` and its key, in one file."""
    S3Backend.list_object_versions = _behind_a_place  # type: ignore[method-assign, assignment]
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    door = Door(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, door, True, ssl_context=tls)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield Store(server.server_port, certificate, door)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
