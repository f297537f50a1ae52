"""Cancel requests: keys of our own, found by whichever worker a request lands on.

A key is a pid and a secret. The pid's upper six bits are the worker's number, so that any worker knows whom to ask; the
rest is random, as is the secret (32 bits in protocol 3.0, 256 in 3.2). A request is checked again against the IP
allowlist, limited per network, compared in constant time, and never answered: see docs/adr/0002.
"""

import asyncio
import hmac
import logging
import secrets
from pathlib import Path
from typing import ClassVar, Final

from cloister.base.errors import CloisterError
from cloister.base.identities import Service
from cloister.base.ipallow import AllowList, IpAddress, parse_address
from cloister.base.rpc import Client, Command, Connection, Server
from cloister.edge.gateway.compute import send_cancel
from cloister.edge.gateway.directory import Directory
from cloister.edge.gateway.sessions import Running

log = logging.getLogger(__name__)

WORKERS_MAX: Final = 64
_PID_RANDOM_BITS: Final = 25
SECRET_BYTES_3_0: Final = 4
SECRET_BYTES_3_2: Final = 32

CALLERS: Final = frozenset({Service.GATEWAY, Service.AGENT})
# The other workers. Root is let in because it could read our memory as well; it has no reason to ask.


class PassOn(Command[str], frozen=True, kw_only=True):
    """A cancel request that landed on another worker. Answered with its outcome, a word for the audit log."""

    reply: ClassVar[type] = str
    pid: int
    secret: bytes
    address: str


class Cancels:
    """The keys of this worker's sessions. `start` and `stop` are the worker's."""

    def __init__(
        self, worker: int, run_dir: Path, directory: Directory, *, callers: frozenset[Service | None] = CALLERS
    ) -> None:
        self._worker = worker % WORKERS_MAX
        self._run_dir = run_dir
        self._directory = directory
        self._keys: dict[int, tuple[bytes, Running]] = {}
        self._siblings: dict[int, Client] = {}
        self._server = Server(self._socket(self._worker), PassOn, self._answer, allowed=callers, mode=0o600)  # type: ignore[arg-type]

    async def start(self) -> None:
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop()
        await asyncio.gather(*(sibling.close() for sibling in self._siblings.values()))

    def mint(self, running: Running, protocol_minor: int) -> tuple[int, bytes]:
        """A key for a session; valid until `revoke`."""
        while (pid := self._worker << _PID_RANDOM_BITS | secrets.randbits(_PID_RANDOM_BITS)) in self._keys or pid == 0:
            pass
        secret = secrets.token_bytes(SECRET_BYTES_3_2 if protocol_minor >= 2 else SECRET_BYTES_3_0)
        self._keys[pid] = (secret, running)
        return pid, secret

    def revoke(self, pid: int) -> None:
        self._keys.pop(pid, None)

    async def cancel(self, pid: int, secret: bytes, address: IpAddress) -> str:
        """Do it, or have the worker do it whose key it is. The outcome is for the audit log only."""
        worker = pid >> _PID_RANDOM_BITS
        if worker == self._worker:
            return await self._cancel_ours(pid, secret, address)
        if not 0 <= worker < WORKERS_MAX or not self._socket(worker).exists():
            return "unknown_key"
        sibling = self._siblings.get(worker)
        if sibling is None:
            sibling = self._siblings[worker] = Client(self._socket(worker), connect_patience_s=0)
        try:
            return await sibling.call(PassOn(pid=pid, secret=secret, address=str(address)))
        except CloisterError as error:
            log.warning("worker %d does not take a cancel request: %s", worker, error)
            return "unavailable"

    async def _answer(self, _connection: Connection, command: PassOn) -> str:
        return await self._cancel_ours(command.pid, command.secret, parse_address(command.address))

    async def _cancel_ours(self, pid: int, secret: bytes, address: IpAddress) -> str:
        expected, running = self._keys.get(pid, (b"", None))
        # A pid is no secret: that it is found in less or more time tells nothing that pg_stat_activity would not.
        if not hmac.compare_digest(secret, expected) or running is None:
            return "unknown_key"
        if running.is_given_on:
            return "unknown_key"  # its client has left a moment ago
        running.was_cancelled = True  # before anything is waited for: from here on nobody else gets the session
        try:
            route = await self._directory.look_up(running.route.endpoint_id, running.role)
        except CloisterError:
            return "unavailable"
        if route.allowed_ips is not None and address not in AllowList.read(route.allowed_ips):
            return "ip_not_allowed"
        try:
            await send_cancel(running.socket_dir, running.backend_pid, running.backend_secret)
        except (OSError, TimeoutError):
            return "compute_unavailable"
        return "ok"

    def _socket(self, worker: int) -> Path:
        return self._run_dir / f"gateway-{worker}.sock"
