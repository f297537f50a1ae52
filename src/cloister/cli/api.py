"""The HTTP client of the command line: one TLS connection, JSON in and out, failures as sentences.

Built on http.client: importing a larger library would take several times as long as the whole command. What must stay
true: the server's certificate is always verified, and a request that might have been carried out is repeated only where
that is safe (reads, and creations under the same Idempotency-Key).
"""

import http.client
import json
import secrets
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode

from cloister import __version__
from cloister.base import reviewed, versions
from cloister.cli.failure import CommandError
from cloister.cli.target import CA_VARIABLE, HOST_VARIABLE, KEY_VARIABLE, Target

Json = dict[str, Any]
"""An object of the API, as it came."""

REQUEST_TIMEOUT_S: Final = 60.0
# A call returns at once and leaves the work to operations; a minute of silence is a stuck server.
BUSY_PATIENCE_S: Final = 15.0
# Another operation holds the project (423), or the platform is restarting a part (503): Neon's CLI waits as long.
BUSY_PAUSE_S: Final = 0.5
BODY_BYTES_MAX: Final = 64 * 1024 * 1024
# A list of 10 000 branches has some 8 MB: more than this is not an answer.
PAGE_ROWS: Final = 100

ASSERTION: Final = "Cloister-Assertion"
"""The header with what a passkey signed."""

PRODUCT: Final = "cloister-cli"
"""How the audit log names a call of the command line."""


class ApiError(CommandError):
    """The API refused. `status` is HTTP's; the message is the API's own, and so is `code`, where it has one."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Api:
    """Calls on one platform, over one connection that is opened when first needed."""

    def __init__(
        self,
        target: Target,
        *,
        timeout_s: float = REQUEST_TIMEOUT_S,
        product: str = PRODUCT,
        signs: bool = True,
        busy_patience_s: float = BUSY_PATIENCE_S,
    ) -> None:
        """`signs`: where a passkey is asked for, somebody is there who has one."""
        self._target = target
        self._signs = signs
        self._timeout_s = timeout_s
        self._busy_patience_s = busy_patience_s
        self._product = product
        self._connection: Connection | None = None
        self.change = ""
        """The reviewed change that the calls from here on belong to: `plan=HASH`, or `plan=HASH;commit=HEX`."""
        self.versions: dict[str, str] | None = None
        """Where there is one: the version in which a thing was last seen, by its path. A change of it is for that version alone."""
        self.waits_its_turn = False
        """Whether to wait where the platform says that it is asked too often: for who reads a thousand projects."""

    @property
    def target(self) -> Target:
        return self._target

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def get(self, path: str, **query: Any) -> Json:
        return _object(self._call("GET", path, query=query))

    def get_list(self, path: str, **query: Any) -> list[Json]:
        """For the few routes that answer with an array and not with an object around it."""
        answer = self._call("GET", path, query=query)
        if not isinstance(answer, list):
            raise ApiError(200, _STRANGE)
        return answer

    def post(self, path: str, body: Json | None = None, *, idempotency_key: str | None = None, **query: Any) -> Json:
        """`idempotency_key`: the platform gives whoever sent it before the same answer, without doing it again."""
        return _object(self._call("POST", path, body=body, query=query, idempotency_key=idempotency_key))

    def put(self, path: str, body: Json) -> Json:
        return _object(self._call("PUT", path, body=body))

    def patch(self, path: str, body: Json) -> Json:
        return _object(self._call("PATCH", path, body=body))

    def delete(self, path: str, **query: Any) -> Json:
        return _object(self._call("DELETE", path, query=query))

    def pages(self, path: str, field: str, **query: Any) -> Iterator[Json]:
        """Every object of a list, page by page, until a page is short, empty, or names no successor."""
        cursor: str | None = None
        while True:
            answer = self.get(path, limit=PAGE_ROWS, cursor=cursor, **query)
            rows: list[Json] = answer.get(field) or []
            yield from rows
            pagination = answer.get("pagination") or {}
            following = pagination.get("cursor") or pagination.get("next")
            if len(rows) < PAGE_ROWS or not following or following == cursor:
                return
            cursor = following

    def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Json | None = None,
        idempotency_key: str | None = None,
    ) -> Any:
        """Ask, and ask again while the platform says that it is busy. Raises ApiError, CommandError."""
        headers = {
            "Accept": "application/json",
            "User-Agent": f"{self._product}/{__version__}",
        }
        if self._target.key is not None:
            headers["Authorization"] = f"Bearer {self._target.key.reveal()}"
        if method == "POST":
            headers["Idempotency-Key"] = idempotency_key or secrets.token_hex(16)
        if self.change and method != "GET":
            headers[reviewed.HEADER] = self.change
        if method not in ("GET", "POST") and (seen := (self.versions or {}).get(path)):
            headers[versions.HEADER] = seen
        content: bytes | None = None
        if body is not None:
            content = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        given = {name: _text(value) for name, value in (query or {}).items() if value is not None}
        url = self._target.path + path + (f"?{urlencode(given)}" if given else "")
        deadline = time.monotonic() + self._busy_patience_s
        while True:
            status, answer, version = self._exchange(method, url, content, headers)
            if status in (423, 503, *((429,) if self.waits_its_turn else ())) and time.monotonic() < deadline:
                headers.pop(ASSERTION, None)  # it was good once
                time.sleep(BUSY_PAUSE_S)
                continue
            if status == 428 and self._signs and ASSERTION not in headers:
                self.close()  # nobody knows how long it takes to find a security key
                headers[ASSERTION] = self._sign(answer)
                continue
            accepted = _accepted(status, answer)
            if self.versions is not None and version:
                self.versions[path] = version
            return accepted

    def _sign(self, answer: bytes) -> str:
        """What a privileged request is repeated with. Raises CommandError."""
        try:
            ceremony = json.loads(answer)["passkey"]
        except (ValueError, LookupError, TypeError):
            raise CommandError(_STRANGE) from None
        from cloister.cli import signing  # noqa: PLC0415 - a server and a browser are not paid for by every command

        return signing.header(signing.sign(self._target, ceremony, "use your passkey there"))

    def _exchange(
        self, method: str, url: str, content: bytes | None, headers: dict[str, str]
    ) -> tuple[int, bytes, str]:
        """One request, its answer and the version that the answer is of, on a new connection if the kept one had been closed
        meanwhile."""
        for attempt in (1, 2):
            is_kept = self._connection is not None
            try:
                connection = self._connection = self._connection or connect(self._target, self._timeout_s)
                connection.request(method, url, body=content, headers=headers)
                response = connection.getresponse()
                answer = response.read(BODY_BYTES_MAX + 1)
            except (http.client.HTTPException, ConnectionError) as error:
                self.close()
                if attempt == 1 and is_kept and method != "PATCH":
                    continue
                raise CommandError(
                    f"{self._target.url} ended the connection before it answered: {_reason(error)}"
                ) from error
            except TimeoutError as error:
                self.close()
                raise CommandError(f"{self._target.url} did not answer within {self._timeout_s:.0f} s") from error
            except ssl.SSLError as error:
                self.close()
                raise CommandError(f"{self._target.url}: {_reason(error)}") from error
            if len(answer) > BODY_BYTES_MAX:
                self.close()
                raise CommandError(f"{self._target.url} sent more than {BODY_BYTES_MAX} bytes")
            if response.will_close:
                self.close()
            return response.status, answer, response.getheader(versions.ANSWER, "")
        raise AssertionError


class Connection(http.client.HTTPSConnection):
    """Connects to `target.dial` and proves that it is `target.host`."""

    def __init__(self, target: Target, tls: ssl.SSLContext, timeout_s: float) -> None:
        super().__init__(target.host, target.port, timeout=timeout_s, context=tls)
        self._tls = tls
        self._dial = target.dial

    def connect(self) -> None:
        plain = socket.create_connection(_reachable(self._dial, self.port), timeout=self.timeout)
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sock = self._tls.wrap_socket(plain, server_hostname=self.host)
        except BaseException:
            plain.close()
            raise


def connect(target: Target, timeout_s: float) -> Connection:
    """A connection to the platform over verified TLS. Raises CommandError that says what is in the way."""
    connection = Connection(target, _tls(target), timeout_s)
    try:
        connection.connect()
    except socket.gaierror as error:
        raise CommandError(
            f"the name {target.dial} cannot be resolved ({error.strerror}): check {HOST_VARIABLE}"
        ) from error
    except ssl.SSLCertVerificationError as error:
        raise CommandError(_distrust(target, error)) from error
    except ssl.SSLError as error:
        raise CommandError(f"{target.url} does not speak TLS as it must: {_reason(error)}") from error
    except TimeoutError as error:
        raise CommandError(f"{target.url} cannot be reached: no answer from {target.dial}") from error
    except OSError as error:
        raise CommandError(
            f"{target.url} cannot be reached: {_reason(error)}. Is it up (`cloister status` on the server)?"
        ) from error
    return connection


def _reachable(host: str, port: int) -> tuple[str, int]:
    """`*.localhost` is this machine by RFC 6761, also where the resolver has not heard of it."""
    if host.endswith(".localhost"):
        try:
            socket.getaddrinfo(host, port)
        except socket.gaierror:
            return "127.0.0.1", port
    return host, port


def _tls(target: Target) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=str(target.ca_file) if target.ca_file else None)
    except FileNotFoundError:
        raise CommandError(f"the CA file {target.ca_file} does not exist: check {CA_VARIABLE}") from None
    except PermissionError:
        raise CommandError(f"the CA file {target.ca_file} may not be read: check {CA_VARIABLE}") from None
    except (ssl.SSLError, OSError) as error:
        raise CommandError(
            f"the CA file {target.ca_file} holds no certificate in PEM form ({_reason(error)})"
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


_STRANGE: Final = f"the answer is not what the API gives: does {HOST_VARIABLE} name a Cloister?"


def _object(answer: Any) -> Json:
    if not isinstance(answer, dict):
        raise ApiError(200, _STRANGE)
    return answer


def _accepted(status: int, answer: bytes) -> Any:
    """What a successful answer says. Raises ApiError with the reason of any other."""
    if status == 204 or (200 <= status < 300 and not answer):
        return {}
    try:
        document = json.loads(answer)
    except ValueError:
        document = None
    if 200 <= status < 300:
        return document
    said = document.get("message") if isinstance(document, dict) else None
    match status:
        case 401:
            message = (
                f"the API key is not accepted (wrong, revoked or expired): check {KEY_VARIABLE}, or `cloister login`"
            )
        case 429:
            message = f"{said or 'too many requests'}: wait a moment"
        case _:
            message = said or f"HTTP status {status} and no explanation: does {HOST_VARIABLE} name a Cloister?"
    request_id = document.get("request_id") if isinstance(document, dict) else None
    if status >= 500 and request_id:
        message = f"{message} (the server's log has more under request id {request_id})"
    raise ApiError(status, message, str(document.get("code") or "") if isinstance(document, dict) else "")


def _distrust(target: Target, error: ssl.SSLCertVerificationError) -> str:
    why = error.verify_message or _reason(error)
    if "ostname mismatch" in why or "IP address mismatch" in why:
        return f"the certificate of {target.dial}:{target.port} is not for {target.host}: check {HOST_VARIABLE}"
    if target.ca_file is None:
        return (
            f"the certificate of {target.host} is not trusted here ({why}): set {CA_VARIABLE} to the platform's ca.pem"
        )
    return (
        f"the certificate of {target.host} does not stand up to {target.ca_file} ({why}): is it this platform's ca.pem?"
    )


def _reason(error: BaseException) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def segment(text: str) -> str:
    """A name as one segment of a path. Raises CommandError for what would be another path: whoever passes it on may take `..` for a
    step up, however it is written (RFC 3986, 6.2.2), and nothing for nothing."""
    if text in ("", ".", ".."):
        raise CommandError(f"{text!r} cannot be named to the API: it would be a step within a path, and no name")
    return quote(text, safe="")
