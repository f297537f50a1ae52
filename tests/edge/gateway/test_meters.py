"""What open sessions have received, told while they go on."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest

from cloister.base.audit_levels import AuditLevel
from cloister.edge.gateway import limits
from cloister.edge.gateway.limits import METER_BYTES_MIN, METER_ROWS_MIN
from cloister.edge.gateway.meters import CLOSED, Meters
from tests.fix_gateway import GatewayWorld


@dataclass
class Counts:
    bytes_in: int = 1
    bytes_out: int = 0
    rows_out: int = 0


class Said:
    def __init__(self) -> None:
        self.events: list[tuple[str, int, int]] = []

    def __call__(self, action: str, *, bytes_out: int, rows_out: int, **_: Any) -> None:
        self.events.append((action, bytes_out, rows_out))


def always() -> bool:
    return True


async def test_it_is_told_when_it_is_much_and_each_time_that_has_doubled() -> None:
    """Each event says all of it, and a terabyte is some twenty events."""
    meters, counts, said = Meters(), Counts(), Said()
    meters.start(said, counts)
    counts.bytes_out = METER_BYTES_MIN - 1
    meters.look(always)
    assert said.events == []
    for _ in range(1_000_000 // 500):
        counts.bytes_out += 500 << 20
        meters.look(always)
        meters.look(always)
    told = [bytes_out for _, bytes_out, _ in said.events]
    assert told[0] >= METER_BYTES_MIN
    assert all(later >= 2 * earlier for earlier, later in pairwise(told))
    assert len(told) < 20


async def test_rows_are_told_where_bytes_are_few() -> None:
    meters, counts, said = Meters(), Counts(), Said()
    meters.start(said, counts)
    for counts.rows_out in (METER_ROWS_MIN - 1, METER_ROWS_MIN, 2 * METER_ROWS_MIN - 1, 2 * METER_ROWS_MIN):
        meters.look(always)
    assert [rows for _, _, rows in said.events] == [METER_ROWS_MIN, 2 * METER_ROWS_MIN]


async def test_what_there_is_no_room_for_is_told_later_and_the_end_tells_all() -> None:
    """Half the queue is the ends' own."""
    meters, counts, said = Meters(), Counts(bytes_out=METER_BYTES_MIN), Said()
    meter = meters.start(said, counts)
    meters.look(lambda: False)
    assert said.events == []
    meters.look(always)
    assert len(said.events) == 1
    counts.bytes_out = 10 * METER_BYTES_MIN
    meter.stop()
    meters.look(always)
    meter.tell(CLOSED, "client_left")
    assert [(action, sent) for action, sent, _ in said.events] == [
        ("connection.reading", METER_BYTES_MIN),
        (CLOSED, 10 * METER_BYTES_MIN),
    ]


@pytest.mark.parametrize("level", [AuditLevel.OFF, AuditLevel.BASE])
async def test_a_session_that_stays_open_is_told_of(
    gateway_world: GatewayWorld, level: AuditLevel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it ends; with rows where its messages are looked at, and without where they are not."""
    monkeypatch.setattr(limits, "METER_LOOK_S", 0.01)
    gateway_world.directory.audit_level = level
    await gateway_world.start()
    rows = 120_000 if level is AuditLevel.BASE else 0
    async with await gateway_world.connect() as connection:
        await connection.execute("SELECT repeat('x', 100) FROM generate_series(1, 120000)")
        (first, *_) = await gateway_world.directory.until("connection.reading")
        assert first.bytes_out >= METER_BYTES_MIN or first.rows_out >= METER_ROWS_MIN
        assert not [it for it in gateway_world.directory.events if it.action == CLOSED]
    (closed,) = await gateway_world.directory.until(CLOSED)
    assert closed.session_id == first.session_id
    assert closed.bytes_out >= first.bytes_out
    assert closed.rows_out == rows


@pytest.mark.parametrize(
    ("command", "rows"),
    [
        ("SELECT generate_series(1, 7)", 7),
        ("SELECT 1; SELECT generate_series(1, 7); SELECT 2", 9),
        ("COPY (SELECT generate_series(1, 7)) TO STDOUT", 7),
        ("BEGIN; DECLARE c CURSOR FOR SELECT generate_series(1, 7); FETCH 5 FROM c; COMMIT", 5),
        ("CREATE TEMP TABLE t AS SELECT generate_series(1, 7)", 0),
    ],
)
async def test_rows_are_those_that_the_client_got(gateway_world: GatewayWorld, command: str, rows: int) -> None:
    """Whatever commands say of the rows that they made: a script hides none behind its last one."""
    gateway_world.directory.audit_level = AuditLevel.BASE
    await gateway_world.start()
    assert (await gateway_world.psql("-c", command))[0] == 0
    (closed,) = await gateway_world.directory.until(CLOSED)
    assert closed.rows_out == rows
