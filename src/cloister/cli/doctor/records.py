"""That the control database answers, its schema is ours, and the audit log is whole and signed."""

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cloister.cli.doctor.finding import Finding, Subject, fail, ok, warning
from cloister.cli.failure import CommandError

UNSIGNED_MAX: Final = timedelta(minutes=1)
# Checkpoints come every 5 seconds; a broker that was killed is back in one.


def control_database(subject: Subject) -> list[Finding]:
    return [asyncio.run(_control_database(subject))]


async def _control_database(subject: Subject) -> Finding:
    from cloister.base.database.migrate import migrations  # noqa: PLC0415 - heavy
    from cloister.base.database.owner import connected  # noqa: PLC0415 - heavy

    async with connected(subject.platform) as database, database.reading() as tx:
        rows = await tx.fetch("SELECT number, digest FROM cloister.migration ORDER BY number")
        version = await tx.fetch_value("SELECT current_setting('server_version')")
    return decide_migrations(
        {row["number"]: row["digest"] for row in rows}, {each.number: each.digest for each in migrations()}, version
    )


def decide_migrations(applied: dict[int, str], ours: dict[int, str], version: str) -> Finding:
    about = "control database"
    if missing := sorted(set(ours) - set(applied)):
        return fail(about, f"migration {missing[0]} is not applied", "restart the platform: it migrates when it starts")
    if newer := sorted(set(applied) - set(ours)):
        return fail(about, f"it has migration {newer[-1]} of a newer Cloister", "use that version again")
    if changed := sorted(number for number, digest in ours.items() if applied[number] != digest):
        return fail(about, f"migration {changed[0]} was not applied as it is here", "use the version that applied it")
    return ok(about, f"PostgreSQL {version}, {len(applied)} migrations applied as they are here")


def audit_log(subject: Subject) -> list[Finding]:
    from cloister.cli.audit import replay, signed_trees  # noqa: PLC0415 - heavy

    last, checkpoints = signed_trees(subject.platform, (), None)
    size = 0 if last is None else last.size
    outcome = asyncio.run(replay(subject.platform, (), checkpoints))
    since = asyncio.run(_unsigned_since(subject, size))
    return [decide_audit(outcome), decide_checkpoints(size, since, datetime.now(UTC))]


async def _unsigned_since(subject: Subject, size: int) -> str | None:
    """When the first event came that no signature covers."""
    from cloister.base.database.owner import connected  # noqa: PLC0415 - heavy

    async with connected(subject.platform) as database, database.reading() as tx:
        at: str | None = await tx.fetch_value("SELECT at FROM cloister.audit_event WHERE seq = $1", size + 1)
    return at


def decide_checkpoints(size: int, unsigned_since: str | None, now: datetime) -> Finding:
    about = "audit checkpoints"
    if unsigned_since is None or now - datetime.fromisoformat(unsigned_since) <= UNSIGNED_MAX:
        return ok(about, f"the key broker has signed {size} events")
    return warning(
        about,
        f"events since {unsigned_since} are not signed",
        "logs/api.log and logs/broker.log say why; docs/audit.md",
    )


def decide_audit(outcome: Any) -> Finding:
    from cloister.trust.audit.verify import Intact  # noqa: PLC0415 - heavy

    if isinstance(outcome, Intact):
        return ok("audit log", f"verified, {outcome.head.seq} events")
    return fail("audit log", f"broken at {outcome}", "keep a copy of the control database and find out who changed it")


def api_answers(subject: Subject) -> list[Finding]:
    """The whole way of a client: name, TLS, key, API, control database."""
    from cloister.cli.api import Api  # noqa: PLC0415 - heavy
    from cloister.cli.target import find_on_server  # noqa: PLC0415 - heavy

    try:
        with contextlib.closing(Api(find_on_server(subject.state_dir), timeout_s=10)) as api:
            api.get("/users/me")
    except CommandError as error:
        return [fail("API", str(error), "look at logs/api.log in the state directory")]
    return [ok("API", f"{api.target.url} answers")]
