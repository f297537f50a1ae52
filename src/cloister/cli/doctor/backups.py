"""Whether what projects hold would survive this machine: whether there is a store for backups that keeps its word."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from cloister.cli.doctor.finding import Finding, Subject, fail, ok, warning

if TYPE_CHECKING:
    from cloister.base.database import Transaction
    from cloister.node.backups.commands import StoreFacts

ABOUT: Final = "store for backups"
ABOUT_DUMPS: Final = "control database's backup"

DUMP_AGE_MAX: Final = timedelta(days=1, hours=3)
# One a day is sent though nothing changed, and three hours late is a finding (`control/backups/platform.py`).

_PATIENCE_S: Final = 2.0
# For the courier, which is started within a second of there being a store.


def store(subject: Subject) -> list[Finding]:
    from cloister.base.rpc import Client  # noqa: PLC0415 - heavy
    from cloister.node.backups.commands import LookAtStore  # noqa: PLC0415

    paths = subject.platform.paths
    if not paths.store_file.exists():
        return [
            warning(
                ABOUT,
                "there is none: what projects hold is lost with this machine",
                "a bucket elsewhere: cloister backups store --help",
            )
        ]

    async def look() -> "StoreFacts":
        client = Client(paths.courier_socket, connect_patience_s=_PATIENCE_S)
        try:
            return await client.call(LookAtStore())
        finally:
            await client.close()

    return decide(asyncio.run(look()))


def decide(seen: "StoreFacts") -> list[Finding]:
    place = f"{seen.name} at {seen.place}"
    if seen.problem:
        return [fail(ABOUT, f"{place}: {seen.problem}", "cloister backups store test")]
    found = [
        warning(ABOUT, f"{place}: {each}", "the policies of `cloister backups store --help`") for each in seen.too_much
    ]
    if seen.kept_days is None:
        found.append(
            warning(
                ABOUT,
                f"{place}: nothing is known to remove what is old",
                "the lifecycle rule of `cloister backups store --help`",
            )
        )
    return found or [
        ok(ABOUT, f"{place} keeps every version and locks it; what is old goes after {seen.kept_days} days")
    ]


def control_database(subject: Subject) -> list[Finding]:
    settings = subject.platform
    if settings.database_url is not None:
        return [ok(ABOUT_DUMPS, "it is a database of yours: its backups are, too")]
    if not settings.paths.store_file.exists():
        return [warning(ABOUT_DUMPS, "there is no store that it could be sent to", "cloister backups store --help")]
    return [decide_dump(asyncio.run(_last_dump(subject)), datetime.now(UTC))]


async def _last_dump(subject: Subject) -> datetime | None:
    from cloister.base.database.owner import connected  # noqa: PLC0415 - heavy

    async with connected(subject.platform) as database, database.reading() as tx:
        return await last_dump(tx)


async def last_dump(tx: "Transaction") -> datetime | None:
    """As of when the newest is, by the log."""
    moment: str | None = await tx.fetch_value(_LAST_DUMP)
    return None if moment is None else datetime.fromisoformat(moment)


def decide_dump(last: datetime | None, now: datetime) -> Finding:
    why = "logs/agent.log says why; docs/backups.md"
    if last is None:
        return warning(ABOUT_DUMPS, "none was sent yet: this server's loss is the loss of all projects' keys", why)
    about = f"the newest in the store is as of {last:%Y-%m-%d %H:%M} UTC"
    return ok(ABOUT_DUMPS, about) if now - last <= DUMP_AGE_MAX else warning(ABOUT_DUMPS, about, why)


_LAST_DUMP: Final = """
    SELECT body::jsonb -> 'details' ->> 'moment' FROM cloister.audit_event
    WHERE action = 'backup.take' AND coalesce(project_id, '') = '' ORDER BY seq DESC LIMIT 1"""
# A base has its project's id.
