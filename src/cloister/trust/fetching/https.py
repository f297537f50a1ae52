"""One question over HTTPS, to an address that was looked at.

    (1) the URL: https, a host, no credentials, nothing that two parsers read differently
    (2) the name is resolved once, and every address that it has must be permitted: one is taken only if all are
    (3) the connection goes to such an address, not to the name: who answers the next question otherwise (DNS rebinding)
        changes nothing. TLS holds the answer to the name
    (4) 200 or nothing: a redirect is not followed, a compressed body not opened
    (5) so many bytes, so many seconds, so many at once; of these a share for each who asks: one whose issuers are slow waits for
        their own, and the wait for a turn is not held against who is asked

What came of (2) is told in one sentence, whatever it was: names and ports of the operator's network are not for asking here.
"""

import asyncio
import contextlib
import functools
import re
import socket
import ssl
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

import h11

from cloister.base.ipallow import IpAddress
from cloister.trust.fetching.addresses import HTTPS_PORT, Reach, parse

URL_MAX: Final = 2_048
HEAD_BYTES_MAX: Final = 16_384
BODY_BYTES_MAX: Final = 65_536
# A dozen RSA keys with their certificates have 30 000.
FETCH_TIMEOUT_S: Final = 5.0
# For all of it, the name's resolution too. Somebody waits for it.
FETCHES_MAX: Final = 8
SHARE: Final = 2
# At once, and of these for one project. Each may hold a thread that resolves a name, for as long as the name's own servers like.
TURN_TIMEOUT_S: Final = 15.0
# Who has waited so long has a dozen slow ones before them.
ADDRESSES_MAX: Final = 16
# Of one name; the first two are tried.
TRIES: Final = 2


@dataclass(frozen=True, slots=True, repr=False)
class _Question:
    form: bytes | None = None
    authorization: str | None = None

    @property
    def method(self) -> str:
        return "GET" if self.form is None else "POST"


_PRINTABLE: Final = re.compile(r"[!-~]+")
_HOST: Final = re.compile(r"[A-Za-z0-9.:\[\]_-]{1,253}")

Resolve = Callable[[str, int], Coroutine[Any, Any, list[str]]]


class FetchError(Exception):
    """The text is for whoever gave the URL."""


@dataclass(frozen=True, slots=True)
class Place:
    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == HTTPS_PORT else f"{host}:{self.port}"


def place_of(url: str) -> Place:
    """(1). Raises FetchError."""
    if len(url) > URL_MAX or not _PRINTABLE.fullmatch(url):  # urlsplit would drop tabs and line breaks
        raise FetchError("it is no URL")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise FetchError("it is no URL") from None
    if parts.scheme != "https":
        raise FetchError("it must begin with https://")
    if "@" in parts.netloc or "\\" in url or parts.fragment:
        raise FetchError("it must have no credentials, no backslash and no fragment")
    if not host or not _HOST.fullmatch(host):
        raise FetchError("it names no host in ASCII")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Place(host, HTTPS_PORT if port is None else port, target)


class Fetcher:
    """`resolve` and `trust` are for tests; without them the system's resolver and authorities, and `authority` (PEM) besides. Each
    has turns and threads of its own."""

    def __init__(
        self,
        reach: Reach,
        *,
        authority: str | None = None,
        resolve: Resolve | None = None,
        timeout_s: float = FETCH_TIMEOUT_S,
    ) -> None:
        self._reach = reach
        self._authority = authority
        self._resolve = resolve or self._look_up
        self._resolvers = ThreadPoolExecutor(FETCHES_MAX, thread_name_prefix="fetching")
        """A name that somebody lets hang keeps no thread from the rest of the process."""
        self._timeout_s = timeout_s
        self._at_once = asyncio.Semaphore(FETCHES_MAX)
        self._shares: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        """Kept by those who hold a turn, or wait for one."""
        self._tls: ssl.SSLContext | None = None

    async def get(self, url: str, *, tenant: str) -> bytes:
        """The body. `tenant` is whose share of what may be asked at once it takes. Raises FetchError."""
        return await self._fetch(url, _Question(), tenant)

    async def post_form(self, url: str, form: bytes, *, tenant: str, authorization: str | None = None) -> bytes:
        """As `get`; `form` and `authorization` are told to nobody but who the certificate says is there. Raises FetchError."""
        return await self._fetch(url, _Question(form, authorization), tenant)

    async def _fetch(self, url: str, question: _Question, tenant: str) -> bytes:
        place = place_of(url)
        share = self._shares.setdefault(tenant, asyncio.Semaphore(SHARE))
        with contextlib.ExitStack() as turn:  # (5)
            try:
                async with asyncio.timeout(TURN_TIMEOUT_S):
                    for limit in (share, self._at_once):
                        await limit.acquire()
                        turn.callback(limit.release)
            except TimeoutError:
                raise FetchError("it was not asked: too many others are being asked now") from None
            try:
                async with asyncio.timeout(self._timeout_s):
                    return await self._ask_there(place, await self._addresses(place, turn), question)
            except TimeoutError:
                raise FetchError(f"it did not answer within {self._timeout_s:g} seconds") from None

    async def _look_up(self, host: str, port: int) -> list[str]:
        look_up = functools.partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        found = await asyncio.get_running_loop().run_in_executor(self._resolvers, look_up)
        return [str(address[0]) for *_, address in found]

    async def _addresses(self, place: Place, turn: contextlib.ExitStack) -> list[IpAddress]:
        """(2). The turn is over when the look-up is, though nobody waits for it any longer: no thread that resolves can be
        called back."""
        looking = asyncio.ensure_future(self._resolve(place.host, place.port))
        try:
            found = [parse(text) for text in await asyncio.shield(looking)]
        except asyncio.CancelledError:
            looking.add_done_callback(functools.partial(_end, turn.pop_all()))
            raise
        except (OSError, ValueError):
            found = []
        if not 0 < len(found) <= ADDRESSES_MAX or not all(self._reach.permits(it, place.port) for it in found):
            raise FetchError("it leads to no public address on port 443")
        return found[:TRIES]

    async def _ask_there(self, place: Place, addresses: list[IpAddress], question: _Question) -> bytes:
        """(3). Another address is tried only where nothing was sent yet."""
        for address in addresses:
            try:
                reader, writer = await asyncio.open_connection(
                    str(address), place.port, ssl=self._context(), server_hostname=place.host
                )
            except ssl.SSLCertVerificationError as error:
                raise FetchError(f"its certificate is not trusted: {error.verify_message}") from None
            except (OSError, ValueError):
                continue
            try:
                return await self._ask(place, question, reader, writer)
            except (h11.ProtocolError, OSError):
                raise FetchError("it does not answer with HTTP") from None
            finally:
                writer.transport.abort()
        raise FetchError("it does not accept connections")

    @staticmethod
    async def _ask(
        place: Place, question: _Question, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bytes:
        """(4)."""
        http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES_MAX)
        headers = [("host", place.authority), ("accept", "application/json"), ("accept-encoding", "identity"),
                   ("user-agent", "cloister"), ("connection", "close")]  # fmt: skip
        if question.authorization is not None:
            headers.append(("authorization", question.authorization))
        if question.form is not None:
            headers += [
                ("content-type", "application/x-www-form-urlencoded"),
                ("content-length", str(len(question.form))),
            ]
        request = h11.Request(method=question.method, target=place.target, headers=headers)
        writer.write(http.send(request) or b"")
        if question.form is not None:
            writer.write(http.send(h11.Data(data=question.form)) or b"")
        writer.write(http.send(h11.EndOfMessage()) or b"")
        body = bytearray()
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(await reader.read(65_536))
                continue
            match event:
                case h11.Response(status_code=status, headers=said):
                    if status != 200:
                        raise FetchError(f"it answers with status {status}, not 200; redirects are not followed")
                    if dict(said).get(b"content-encoding", b"identity") != b"identity":
                        raise FetchError("its answer is compressed, which was not asked for")
                case h11.Data(data=data):
                    body += data
                    if len(body) > BODY_BYTES_MAX:
                        raise FetchError(f"its answer is longer than {BODY_BYTES_MAX} bytes")
                case h11.EndOfMessage():
                    return bytes(body)
                case h11.InformationalResponse():
                    pass
                case _:
                    raise FetchError("it ends before its answer does")

    def _context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
            self._tls.minimum_version = ssl.TLSVersion.TLSv1_2
            if self._authority is not None:
                self._tls.load_verify_locations(cadata=self._authority)
        return self._tls


def _end(turn: contextlib.ExitStack, looking: asyncio.Future[list[str]]) -> None:
    if not looking.cancelled():
        looking.exception()  # which nobody waits for
    turn.close()
