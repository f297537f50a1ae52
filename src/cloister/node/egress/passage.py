"""One connection out of a compute: who comes, whether there is room, where it leads, and then bytes both ways.

Nothing that the compute says is parsed, and of what the server says one message (`protocol/pgwire/hop.py`). What goes wrong before the bytes flow is told to it in a message that libpq
shows: an ErrorResponse of PostgreSQL's protocol, with SQLSTATE 08001.
"""

import asyncio
import contextlib
import functools
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from cloister.base.egress import IpNetwork
from cloister.base.errors import CloisterError, ExhaustedError, ForbiddenError, UnavailableError
from cloister.base.rpc import Peer
from cloister.node.egress.commands import AnyEgressEvent, PassageClosed, PassageOpened, PassageRefused
from cloister.node.egress.outside import READ_BYTES, Outside, reach
from cloister.protocol.pgwire.frames import STARTUP_BYTES_MAX
from cloister.protocol.pgwire.hop import Hop
from cloister.protocol.pgwire.messages import error_response

FIRST_WORDS_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Door:
    """One listening socket: a way out, at one of its addresses or by its name."""

    project_id: str
    uid: int
    target: str
    host: str
    port: int
    context: ssl.SSLContext = field(repr=False)


@dataclass(frozen=True, slots=True)
class House:
    """What all passages share."""

    allowed: Sequence[IpNetwork]
    take_room: Callable[[str], str | None]
    """For one more of a project: None, and there is room until `give_room`; or why not."""
    give_room: Callable[[str], None]
    may_explain: Callable[[str], bool]
    """Whether there is room to tell a project, and the record, that there was no room."""
    tell: Callable[[AnyEgressEvent], bool]
    """False: nobody hears it."""
    resolve: Callable[[str, str, int], Awaitable[list[str]]]
    """A project's name, at a port (`names.py`)."""


async def walk(door: Door, house: House, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """From the connection of a client in the compute to its end. Cancelled, it ends at once."""
    try:
        # (1) The project's own computes, and nobody else: not its neighbour, not a user of the host, not root.
        peer = Peer.of(writer.get_extra_info("socket"))
        if peer.uid != door.uid:
            return
        # (2) Room.
        if (why := house.take_room(door.project_id)) is not None:
            if not house.may_explain(door.project_id):
                return  # as often as it likes, which may not cost others theirs
            await _refuse(door, house, reader, writer, ExhaustedError(f"{door.project_id}: {why}", public=why))
            return
        try:
            await _through(door, house, reader, writer)
        finally:
            house.give_room(door.project_id)
    finally:
        writer.close()


async def _through(door: Door, house: House, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        # (3) Where it leads, whether it may, and who is there.
        resolve = functools.partial(house.resolve, door.project_id)
        outside = await reach(door.host, door.port, door.context, house.allowed, resolve=resolve)
    except (ForbiddenError, UnavailableError) as error:
        await _refuse(door, house, reader, writer, error)
        return
    where = {"project_id": door.project_id, "target": door.target, "host": door.host, "address": outside.address}
    try:
        # (4) Told, before a byte goes out. Without anybody to record it there is no way out.
        if not house.tell(PassageOpened(**where)):
            unheard = UnavailableError(public="the platform cannot record the connection now: try again")
            await _refuse(door, house, reader, writer, unheard)
            return
        # (5) Bytes.
        counts = [0, 0]
        try:
            await _both_ways(reader, writer, outside, counts)
        finally:
            house.tell(PassageClosed(**where, bytes_out=counts[0], bytes_in=counts[1]))
    finally:
        outside.writer.close()


async def _both_ways(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, outside: Outside, counts: list[int]
) -> None:
    """Until one end closes, which ends the other: PostgreSQL knows no half-closed session. `counts` what went out and
    came in."""
    ways = [
        asyncio.create_task(_outwards(reader, outside.writer, counts)),
        asyncio.create_task(_inwards(outside.reader, writer, counts)),
    ]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)


async def _outwards(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, counts: list[int]) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(READ_BYTES):
            counts[0] += len(data)
            writer.write(data)
            await writer.drain()


async def _inwards(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, counts: list[int]) -> None:
    hop = Hop()
    with contextlib.suppress(OSError):
        while data := await reader.read(READ_BYTES):
            counts[1] += len(data)
            writer.write(hop.feed(data))
            await writer.drain()
        writer.write(hop.rest())


async def _refuse(
    door: Door, house: House, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, error: CloisterError
) -> None:
    house.tell(PassageRefused(project_id=door.project_id, target=door.target, host=door.host, reason=error.public))
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(FIRST_WORDS_TIMEOUT_S):
            # What lies unread at the end would make the kernel throw the answer away.
            await reader.read(STARTUP_BYTES_MAX)
            writer.write(error_response("08001", f"egress: {error.public}"))
            await writer.drain()
