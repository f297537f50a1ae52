"""Findings, the spool of alerts, and where the sentinel is in the log: its tables (migration 0010).

An alarm becomes a finding, or one more of a finding that is not resolved, in one transaction with the alerts about it.
Fed the same event twice (after a crash the last seconds are replayed), it changes nothing.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from cloister.base.database import Transaction
from cloister.trust.sentinel.detector import Alarm

ALIVE_PER_RULE_MAX: Final = 50
# Of one rule, not resolved. An attacker with a thousand addresses makes one more finding, "and others", not a thousand mails.
# Where it concerns a person, of that person: one who is to be told is not one of "others" because fifty were told before.

OTHERS: Final = "others"

_EXCERPT_CHARS_MAX: Final = 300
# Of an error kept with a delivery.


@dataclass(frozen=True, slots=True)
class Position:
    """Where the memory of the detector is in the log."""

    seq: int
    hash: bytes
    memory: bytes


@dataclass(frozen=True, slots=True)
class Delivery:
    id: int
    channel: str
    kind: str
    attempts: int
    finding: dict[str, Any]


async def raise_(tx: Transaction, alarm: Alarm, channels: Sequence[str], *, run: str = "") -> str | None:
    """The new finding's id; None if it is one more of a known one, or was counted before."""
    fingerprint = f"test {run}|{alarm.fingerprint}" if run else alarm.fingerprint
    person = alarm.subject.get("person")
    alive = await tx.fetch_value(
        """SELECT count(*) FROM finding
            WHERE rule = $1 AND state <> 'resolved' AND subject ->> 'person' IS NOT DISTINCT FROM $2::text""",
        alarm.rule,
        person,
    )
    known = await _known(tx, fingerprint)
    if known is None and alive >= ALIVE_PER_RULE_MAX and not run:
        fingerprint = "|".join(filter(None, (alarm.rule, OTHERS, person)))
        known = await _known(tx, fingerprint)
    if known is not None and known["last_seq"] >= alarm.seq:
        return None
    if known is not None and known["state"] != "resolved":
        await tx.execute(
            "UPDATE finding SET alarms = alarms + 1, last_seq = $2, last_at = $3, summary = $4 WHERE id = $1",
            known["id"],
            alarm.seq,
            alarm.at,
            alarm.summary,
        )
        return None
    finding_id = f"fd-{secrets.token_hex(6)}"
    await tx.execute(
        """INSERT INTO finding (id, rule, level, title, summary, response, fingerprint, subject, is_test, run,
                                first_seq, last_seq, first_at, last_at)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8::text::jsonb, $9, $10, $11, $11, $12, $12)""",
        finding_id,
        alarm.rule,
        alarm.level.value,
        alarm.title,
        alarm.summary,
        alarm.response.replace("{id}", finding_id),
        fingerprint,
        msgspec.json.encode(alarm.subject).decode(),
        bool(run),
        run,
        alarm.seq,
        alarm.at,
    )
    await _spool(tx, [finding_id], channels, "raised")
    return finding_id


async def _known(tx: Transaction, fingerprint: str) -> Any:
    """The newest finding, which nobody resolves before the transaction ends: one more alarm of a resolved one nobody would be told."""
    return await tx.fetch_row(
        """SELECT id, last_seq, state FROM finding WHERE fingerprint = $1
            ORDER BY last_seq DESC LIMIT 1 FOR UPDATE""",
        fingerprint,
    )


async def escalate(tx: Transaction, channels: Sequence[str], *, after_s: float) -> int:
    """Tell again of what is grave and was acknowledged by nobody. How many."""
    rows = await tx.fetch(
        """UPDATE finding SET escalated_at = now()
            WHERE state = 'open' AND level IN ('high', 'critical') AND NOT is_test AND escalated_at IS NULL
              AND raised_at < now() - make_interval(secs => $1)
        RETURNING id""",
        after_s,
    )
    await _spool(tx, [row["id"] for row in rows], channels, "escalated")
    return len(rows)


async def due(tx: Transaction, limit: int) -> list[Delivery]:
    rows = await tx.fetch(
        """SELECT d.id AS delivery, d.channel, d.kind, d.attempts, f.id, f.rule, f.level, f.title, f.summary, f.response,
                  f.subject::text AS subject, f.is_test, f.alarms, f.first_seq, f.last_seq, f.first_at, f.last_at
             FROM alert_delivery d JOIN finding f ON f.id = d.finding_id
            WHERE d.delivered_at IS NULL AND d.given_up_at IS NULL AND d.next_at <= now()
            ORDER BY d.id LIMIT $1""",
        limit,
    )
    return [
        Delivery(
            row["delivery"],
            row["channel"],
            row["kind"],
            row["attempts"],
            {name: row[name] for name in _TOLD} | {"subject": msgspec.json.decode(row["subject"])},
        )
        for row in rows
    ]


_TOLD: Final = (
    "id", "rule", "level", "title", "summary", "response", "is_test", "alarms", "first_seq", "last_seq", "first_at",
    "last_at",
)  # fmt: skip


async def delivered(tx: Transaction, delivery_id: int) -> None:
    await tx.execute(
        "UPDATE alert_delivery SET delivered_at = now(), attempts = attempts + 1, error = '' WHERE id = $1", delivery_id
    )


async def failed(tx: Transaction, delivery_id: int, error: str, *, again_in_s: float) -> None:
    await tx.execute(
        """UPDATE alert_delivery SET attempts = attempts + 1, error = $2, next_at = now() + make_interval(secs => $3)
            WHERE id = $1""",
        delivery_id,
        error[:_EXCERPT_CHARS_MAX],
        again_in_s,
    )


async def give_up(tx: Transaction, delivery_id: int, error: str) -> None:
    await tx.execute(
        "UPDATE alert_delivery SET given_up_at = now(), error = $2 WHERE id = $1",
        delivery_id,
        error[:_EXCERPT_CHARS_MAX],
    )


async def position(tx: Transaction) -> Position | None:
    row = await tx.fetch_row("SELECT seq, hash, memory FROM sentinel")
    return None if row is None else Position(row["seq"], row["hash"], row["memory"])


async def keep(tx: Transaction, at: Position) -> None:
    await tx.execute(
        """INSERT INTO sentinel (seq, hash, memory, beat_seq) VALUES ($1, $2, $3, $1)
           ON CONFLICT (is_only) DO UPDATE SET seq = $1, hash = $2, memory = $3, beat_seq = $1, beat_at = now()""",
        at.seq,
        at.hash,
        at.memory,
    )


async def beat(tx: Transaction, seq: int) -> None:
    await tx.execute("UPDATE sentinel SET beat_seq = $1, beat_at = now()", seq)


async def go_back(tx: Transaction, seq: int) -> None:
    """The log was rolled back to `seq`: its next events are new ones, whatever numbers were seen before."""
    await tx.execute("UPDATE finding SET last_seq = $1 WHERE last_seq > $1", seq)


async def _spool(tx: Transaction, finding_ids: Sequence[str], channels: Sequence[str], kind: str) -> None:
    await tx.execute(
        """INSERT INTO alert_delivery (finding_id, channel, kind)
           SELECT finding_id, channel, $3 FROM unnest($1::text[]) finding_id, unnest($2::text[]) channel""",
        list(finding_ids),
        list(channels),
        kind,
    )
