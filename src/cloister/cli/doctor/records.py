"""That the control database answers, its schema is ours, and the audit log is whole."""

import asyncio
from typing import Any

from cloister.cli.doctor.finding import Finding, Subject, fail, ok
from cloister.cli.failure import CommandError


def control_database(subject: Subject) -> list[Finding]:
    return [asyncio.run(_control_database(subject))]


async def _control_database(subject: Subject) -> Finding:
    from cloister.base.database.migrate import migrations  # noqa: PLC0415 - heavy
    from cloister.cli.control_database import connected  # noqa: PLC0415 - heavy

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

    _, checkpoints = signed_trees(subject.platform, (), None)
    return [decide_audit(asyncio.run(replay(subject.platform, (), checkpoints)))]


def decide_audit(outcome: Any) -> Finding:
    from cloister.trust.audit.verify import Intact  # noqa: PLC0415 - heavy

    if isinstance(outcome, Intact):
        return ok("audit log", f"verified, {outcome.head.seq} events")
    return fail("audit log", f"broken at {outcome}", "keep a copy of the control database and find out who changed it")


def api_answers(subject: Subject) -> list[Finding]:
    """The whole way of a client: name, TLS, key, API, control database."""
    from cloister.cli.api import Api  # noqa: PLC0415 - heavy
    from cloister.cli.target import from_state_dir  # noqa: PLC0415 - heavy

    api = Api(from_state_dir(subject.state_dir, {}), timeout_s=10)
    try:
        api.get("/users/me")
    except CommandError as error:
        return [fail("API", str(error), "look at logs/api.log in the state directory")]
    finally:
        api.close()
    return [ok("API", f"{api.target.url} answers")]
