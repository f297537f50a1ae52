"""A store that speaks like S3, over TLS, with object lock: moto. It looks at no signature; `test_sigv4.py` does."""

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import boto3
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from cloister.trust.audit.targets import S3, Witness

BUCKET: Final = "kept-elsewhere"


class Store:
    """`client` is whoever holds the credentials, or has stolen them."""

    def __init__(self, port: int, certificate: Path) -> None:
        self._certificate = certificate
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
            "key_id": "testing", "secret_key": "testing", "ca_file": str(self._certificate), "private": True, **changes,
        }  # fmt: skip

    def witness(self, **changes: Any) -> Witness:
        return Witness(**self.given(**changes))

    def s3(self, **changes: Any) -> S3:
        return S3(**self.given(after=0, **changes))


@contextmanager
def a_store(certificate: Path) -> Iterator[Store]:
    """`certificate` and its key, in one file."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    app = DomainDispatcherApplication(create_backend_app)
    server = make_server("127.0.0.1", 0, app, True, ssl_context=tls)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield Store(server.server_port, certificate)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
