"""Sessions of clients that said goodbye, cleaned and given to the next client of the very same kind: docs/adr/0003.

Starting a backend costs PostgreSQL more than everything a gateway does for a connection. Clients that connect for every
query pay it every time; for them, and only for them, a backend serves several clients in a row. What must hold:

    (1) same endpoint, same compute, same role, database and startup parameters: all that PostgreSQL looked at
    (2) the session was idle, outside a transaction, with nothing unanswered, and was never sent a cancel
    (3) DISCARD ALL succeeded, and the answer is *exactly* the bytes expected, with a random word at the end: whatever
        the last client left in the pipe, or half sent, cannot produce them. What DISCARD ALL leaves is seen to in the same
        breath: random() goes on from a seed of ours, and where there is dblink, whose connections stay open, nobody is told
        the word
    (4) only where clients of this kind come often; a backend is given on for a few seconds at most, so that ALTER ROLE …
        SET and its kin reach a new session about as soon as a new password does
"""

import asyncio
import random
import secrets
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cloister.edge.gateway.compute import ComputeSession
from cloister.edge.gateway.limits import (
    REUSE_BACKEND_S_MAX,
    REUSE_FROM_PER_S,
    REUSE_KINDS_MAX,
    SPARE_S,
    SPARES_MAX,
)
from cloister.protocol.pgwire.backend import BackendLogin
from cloister.protocol.pgwire.frames import message
from cloister.protocol.pgwire.messages import READY_FOR_QUERY_IDLE

_WORD_BYTES: Final = 16

# RowDescription of one column of type text without a table, as `SELECT 'word'` has it.
_ONE_TEXT_COLUMN: Final = message(b"T", b"\0\1?column?\0" + b"\0" * 6 + b"\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0")


@dataclass(frozen=True, slots=True)
class Kind:
    """(1): all that decides what a fresh session would be."""

    endpoint_id: str
    socket_dir: str
    generation: int
    parameters: frozenset[tuple[str, str]]


_SEEDS: Final = random.SystemRandom()

_UNLESS: Final = (
    "NOT EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname OPERATOR(pg_catalog.=) 'dblink')"
    " AND pg_catalog.setseed({:.17f}) IS NOT NULL"
)


def cleaning(word: str) -> tuple[bytes, bytes]:
    """(3): what to send, and the only answer that will do."""
    condition = _UNLESS.format(_SEEDS.uniform(-1, 1))
    query = message(b"Q", b"DISCARD ALL\0") + message(b"Q", f"SELECT '{word}' WHERE {condition}\0".encode())
    row = message(b"D", b"\0\1" + len(word).to_bytes(4, "big") + word.encode())
    answer = (
        message(b"C", b"DISCARD ALL\0") + READY_FOR_QUERY_IDLE
        + _ONE_TEXT_COLUMN + row + message(b"C", b"SELECT 1\0") + READY_FOR_QUERY_IDLE
    )  # fmt: skip
    return query, answer


class Spares:
    """Of one worker."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ready: dict[Kind, list[_Spare]] = {}
        self._all: set[_Spare] = set()
        self._seen: OrderedDict[Kind, deque[float]] = OrderedDict()

    @staticmethod
    def kind_of(endpoint_id: str, compute: tuple[str, int], parameters: Mapping[str, str]) -> Kind:
        return Kind(endpoint_id, *compute, frozenset(parameters.items()))

    def take(self, kind: Kind) -> ComputeSession | None:
        """A clean session, if there is one; the visit is counted either way."""
        self._count(kind)
        spares = self._ready.get(kind)
        while spares:
            spare = spares.pop()
            if not spares:
                del self._ready[kind]
            if (session := spare.give()) is not None:
                self._all.discard(spare)
                return session
        return None

    def adopt(self, kind: Kind, session: ComputeSession) -> bool:
        """(2) holds: clean the session and keep it for a moment. False if it is not wanted."""
        now = self._loop.time()
        if len(self._all) >= SPARES_MAX or not self._is_busy(kind, now):
            return False
        if now - session.since > REUSE_BACKEND_S_MAX or "replication" in dict(kind.parameters):
            return False
        self._all.add(_Spare(self, kind, session))
        return True

    def drop(self, endpoint_id: str) -> bool:
        """Close those of an endpoint. True if there were any."""
        dropped = [spare for spare in self._all if spare.kind.endpoint_id == endpoint_id]
        for spare in dropped:
            spare.close()
        return bool(dropped)

    def drop_all(self) -> None:
        for spare in list(self._all):
            spare.close()

    def _count(self, kind: Kind) -> None:
        visits = self._seen.get(kind)
        if visits is None:
            visits = self._seen[kind] = deque(maxlen=REUSE_FROM_PER_S)
            if len(self._seen) > REUSE_KINDS_MAX:
                self._seen.popitem(last=False)
        visits.append(self._loop.time())
        self._seen.move_to_end(kind)

    def _is_busy(self, kind: Kind, now: float) -> bool:
        """(4) of the list above."""
        visits = self._seen.get(kind)
        return visits is not None and len(visits) == REUSE_FROM_PER_S and now - visits[0] < 1.0

    def _became_ready(self, spare: "_Spare") -> None:
        self._ready.setdefault(spare.kind, []).append(spare)

    def _left(self, spare: "_Spare") -> None:
        self._all.discard(spare)
        spares = self._ready.get(spare.kind)
        if spares is not None and spare in spares:
            spares.remove(spare)
            if not spares:
                del self._ready[spare.kind]


class _Spare(asyncio.Protocol):
    """The protocol of a session between two clients."""

    def __init__(self, spares: Spares, kind: Kind, session: ComputeSession) -> None:
        self.kind = kind
        self._spares = spares
        self._session = session
        self._answer = bytearray()
        self._is_given = False
        query, self._expected = cleaning(secrets.token_hex(_WORD_BYTES))
        self._expiry = asyncio.get_running_loop().call_later(SPARE_S, self.close)
        session.transport.set_protocol(self)
        session.transport.write(query)

    def give(self) -> ComputeSession | None:
        self._expiry.cancel()
        if self._session.transport.is_closing():
            return None
        self._is_given = True
        return self._session

    def close(self) -> None:
        self._expiry.cancel()
        self._spares._left(self)  # noqa: SLF001 - it belongs to it
        self._session.transport.close()

    def data_received(self, data: bytes) -> None:
        if self._is_given:
            self._session.login.rest += data  # on its way to the next client
            return
        self._answer += data
        if self._answer == self._expected:
            old = self._session
            login = BackendLogin(is_ready=True, greeting=old.login.greeting, pid=old.login.pid, secret=old.login.secret)
            self._session = ComputeSession(
                old.transport, login, old.socket_dir, old.generation, was_cold=False, since=old.since
            )
            self._spares._became_ready(self)  # noqa: SLF001
        elif not self._expected.startswith(self._answer):
            # Something else was in the pipe, a parameter came back to another value, or it speaks unasked.
            self.close()

    def connection_lost(self, _exc: Exception | None) -> None:
        if not self._is_given:
            self.close()
