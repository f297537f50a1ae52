"""Rows of `endpoint`, in and out. The transaction is an argument, so that who commits is visible."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from cloister.base.audit_levels import AuditLevel
from cloister.base.database import Transaction, jsonb
from cloister.base.errors import BusyError, NotFoundError
from cloister.base.ids import BranchId, EndpointId, OperationId, ProjectId, TimelineId
from cloister.control.computes.model import Endpoint, State


@dataclass(frozen=True, slots=True)
class Placed:
    """An endpoint, and what starting its compute takes from other rows."""

    endpoint: Endpoint
    timeline_id: TimelineId
    history_retention_s: int
    pg_version: int
    uid: int
    audit_level: AuditLevel


async def find(tx: Transaction, project_id: ProjectId, branch_id: BranchId | None) -> list[Endpoint]:
    rows = await tx.fetch(
        """SELECT * FROM endpoint
            WHERE project_id = $1 AND ($2::text IS NULL OR branch_id = $2) AND deleted_at IS NULL
            ORDER BY created_at, id""",
        project_id,
        branch_id,
    )
    return [endpoint_of(row) for row in rows]


async def get(tx: Transaction, project_id: ProjectId, endpoint_id: EndpointId) -> Endpoint:
    row = await tx.fetch_row(
        """SELECT e.* FROM endpoint e JOIN project p ON p.id = e.project_id
            WHERE e.id = $1 AND p.id = $2 AND e.deleted_at IS NULL AND p.deleted_at IS NULL""",
        endpoint_id,
        project_id,
    )
    if row is None:
        raise NotFoundError(f"no endpoint {endpoint_id} in {project_id}", public="endpoint not found")
    return endpoint_of(row)


async def hold(tx: Transaction, endpoint_id: EndpointId) -> None:
    """Nobody changes the row before the transaction ends; operations do so without holding the project."""
    await tx.execute("SELECT FROM endpoint WHERE id = $1 FOR NO KEY UPDATE", endpoint_id)


async def placed(tx: Transaction, endpoint_id: EndpointId, *, and_deleted: bool = False) -> Placed:
    """Raises NotFoundError."""
    row = await tx.fetch_row(
        """SELECT e.*, b.timeline_id, kept_history(b.timeline_id, p.history_retention_seconds) AS history_retention_seconds,
                  p.audit_level, v.pg_version, v.uid
             FROM endpoint e JOIN branch b ON b.id = e.branch_id JOIN project p ON p.id = e.project_id
                  JOIN volume v ON v.project_id = e.project_id
            WHERE e.id = $1 AND ($2 OR e.deleted_at IS NULL)""",
        endpoint_id,
        and_deleted,
    )
    if row is None:
        raise NotFoundError(f"no endpoint {endpoint_id}", public="endpoint not found")
    return Placed(
        endpoint_of(row),
        timeline_id=TimelineId(row["timeline_id"]),
        history_retention_s=row["history_retention_seconds"],
        pg_version=row["pg_version"],
        uid=row["uid"],
        audit_level=AuditLevel(row["audit_level"]),
    )


async def audit_level(tx: Transaction, project_id: ProjectId) -> AuditLevel:
    return AuditLevel(await tx.fetch_value("SELECT audit_level FROM project WHERE id = $1", project_id))


async def add(tx: Transaction, endpoint: Endpoint) -> Endpoint:
    row = await tx.fetch_row(
        """INSERT INTO endpoint (id, project_id, branch_id, type, min_cu, max_cu, suspend_timeout_seconds, pg_settings,
                                 is_disabled, desired, state, is_clean)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8::jsonb, $9, $10, $11, $12) RETURNING *""",
        endpoint.id,
        endpoint.project_id,
        endpoint.branch_id,
        endpoint.type,
        endpoint.min_cu,
        endpoint.max_cu,
        endpoint.suspend_timeout_seconds,
        jsonb(endpoint.pg_settings),
        endpoint.is_disabled,
        endpoint.desired,
        endpoint.state,
        endpoint.is_clean,
    )
    assert row is not None
    return endpoint_of(row)


async def change(
    tx: Transaction,
    endpoint_id: EndpointId,
    *,
    min_cu: float,
    max_cu: float,
    suspend_timeout_seconds: int,
    pg_settings: Mapping[str, str],
    is_disabled: bool,
) -> Endpoint:
    row = await tx.fetch_row(
        """UPDATE endpoint SET min_cu = $2, max_cu = $3, suspend_timeout_seconds = $4, pg_settings = $5::jsonb,
                  is_disabled = $6, updated_at = now()
            WHERE id = $1 RETURNING *""",
        endpoint_id,
        min_cu,
        max_cu,
        suspend_timeout_seconds,
        jsonb(dict(pg_settings)),
        is_disabled,
    )
    assert row is not None
    return endpoint_of(row)


async def want(tx: Transaction, endpoint_id: EndpointId, desired: State) -> None:
    await tx.execute("UPDATE endpoint SET desired = $2, updated_at = now() WHERE id = $1", endpoint_id, desired)


async def started(
    tx: Transaction,
    endpoint_id: EndpointId,
    *,
    timeline_id: TimelineId,
    generation: int,
    socket_dir: str,
    now: datetime,
) -> bool:
    """It runs. Not clean until it is suspended: from now on the catalog may change. An endpoint that was never started
    stays `init` until its first configuration is applied.

    False, having changed nothing: by now it is deleted, disabled or held, or stands for another branch
    (`branches/store.take_place`), or its branch lives on another timeline (`branches/timelines.succeed`). Those two lock the
    branch for their change, and whoever disables or puts down locks the endpoint: what is asked after our own locks, in
    statements of its own, is as they left it.
    """
    branch_id = await tx.fetch_value("SELECT branch_id FROM endpoint WHERE id = $1", endpoint_id)
    if await tx.fetch_value("SELECT timeline_id FROM branch WHERE id = $1 FOR SHARE", branch_id) != timeline_id:
        return False
    await hold(tx, endpoint_id)
    written = await tx.fetch_value(
        """UPDATE endpoint SET state = CASE state WHEN 'init' THEN 'init' ELSE 'active' END, desired = 'active',
                  generation = $2, socket_dir = $3, is_clean = false, started_at = $4, last_active_at = $4,
                  updated_at = now()
            WHERE id = $1 AND branch_id = $5 AND deleted_at IS NULL AND NOT is_disabled
              AND NOT EXISTS (SELECT FROM hold h WHERE h.project_id = endpoint.project_id
                                                   AND h.endpoint_id IN ('', endpoint.id) AND h.role = '')
        RETURNING id""",
        endpoint_id,
        generation,
        socket_dir,
        now,
        branch_id,
    )
    return written is not None


async def configured(tx: Transaction, endpoint_id: EndpointId, generation: int) -> None:
    """Its first configuration is applied, by this compute: it may be routed to. Raises BusyError if that has been stopped since:
    what the next one finds may be other data, which has a first configuration of its own."""
    await tx.execute(
        """UPDATE endpoint SET state = 'active', updated_at = now()
            WHERE id = $1 AND state = 'init' AND generation = $2 AND socket_dir IS NOT NULL""",
        endpoint_id,
        generation,
    )
    if await tx.fetch_value("SELECT state = 'init' FROM endpoint WHERE id = $1", endpoint_id):
        raise BusyError(f"compute {generation} of {endpoint_id} was stopped before it was configured")


async def stopped(tx: Transaction, endpoint_id: EndpointId, *, is_clean: bool, desired: State, now: datetime) -> None:
    """It does not run. `is_clean`: the catalog copy is what the server held last."""
    await tx.execute(
        """UPDATE endpoint SET state = CASE state WHEN 'init' THEN 'init' ELSE 'idle' END, desired = $2,
                  socket_dir = NULL, is_clean = $3, suspended_at = $4, verifiers_at = CASE WHEN $3 THEN $4
                  ELSE verifiers_at END, updated_at = now()
            WHERE id = $1""",
        endpoint_id,
        desired,
        is_clean,
        now,
    )


async def was_active(tx: Transaction, endpoint_id: EndpointId, at: datetime) -> None:
    await tx.execute("UPDATE endpoint SET last_active_at = $2 WHERE id = $1", endpoint_id, at)


async def delete(tx: Transaction, endpoint_id: EndpointId) -> None:
    await tx.execute(
        "UPDATE endpoint SET deleted_at = now(), desired = 'idle', updated_at = now() WHERE id = $1 AND deleted_at IS NULL",
        endpoint_id,
    )


@dataclass(frozen=True, slots=True)
class Defaults:
    """A project's `default_endpoint_settings`."""

    min_cu: float
    max_cu: float
    suspend_timeout_seconds: int
    pg_settings: dict[str, str]


async def defaults_of(tx: Transaction, project_id: ProjectId) -> Defaults:
    stored = msgspec.json.decode(
        await tx.fetch_value("SELECT default_endpoint_settings FROM project WHERE id = $1", project_id)
    )
    return Defaults(
        min_cu=stored["autoscaling_limit_min_cu"],
        max_cu=stored["autoscaling_limit_max_cu"],
        suspend_timeout_seconds=stored["suspend_timeout_seconds"],
        pg_settings=stored["pg_settings"],
    )


async def pg_version_of(tx: Transaction, project_id: ProjectId) -> int:
    return int(await tx.fetch_value("SELECT pg_version FROM project WHERE id = $1", project_id))


async def is_protected(tx: Transaction, endpoint_id: EndpointId) -> bool:
    """Its branch is."""
    return bool(
        await tx.fetch_value(
            "SELECT b.is_protected FROM endpoint e JOIN branch b ON b.id = e.branch_id WHERE e.id = $1", endpoint_id
        )
    )


async def has_compute(tx: Transaction, branch_id: BranchId) -> bool:
    """A server may be at work on the branch's data, also that of an endpoint deleted since."""
    return bool(
        await tx.fetch_value(
            "SELECT EXISTS (SELECT FROM endpoint WHERE branch_id = $1 AND socket_dir IS NOT NULL)", branch_id
        )
    )


async def is_branch_clean(tx: Transaction, branch_id: BranchId) -> bool:
    """Whether the branch's catalog copy can be trusted: its last endpoint, deleted or not, was stopped cleanly."""
    clean = await tx.fetch_value(
        """SELECT is_clean FROM endpoint WHERE branch_id = $1 AND type = 'read_write'
            ORDER BY created_at DESC, id LIMIT 1""",
        branch_id,
    )
    return True if clean is None else bool(clean)


async def is_configured(tx: Transaction, branch_id: BranchId) -> bool:
    """A server of the branch's present data had its first configuration: what the catalog copy says was in it once."""
    return bool(
        await tx.fetch_value(
            """SELECT EXISTS (SELECT FROM endpoint WHERE branch_id = $1 AND state <> 'init' AND type = 'read_write')""",
            branch_id,
        )
    )


async def is_from_template(tx: Transaction, branch_id: BranchId) -> bool:
    """Its data is the fresh cluster that its project began with, and no server was ever configured. Who keeps under another
    name what the project's first branch was has that cluster too, with somebody's work in it; and who has given its endpoints
    away is no less configured."""
    return bool(
        await tx.fetch_value(
            """SELECT t.source_id IS NULL AND EXISTS (SELECT FROM volume v WHERE v.branch_id = b.id)
                      AND NOT EXISTS (SELECT FROM endpoint e WHERE e.project_id = b.project_id AND e.state <> 'init'
                                                                     AND e.type = 'read_write')
                 FROM branch b JOIN timeline t ON t.id = b.timeline_id WHERE b.id = $1""",
            branch_id,
        )
    )


async def is_as_wanted(tx: Transaction, branch_id: BranchId) -> bool:
    """What its data holds is what our rows say, and nothing is to be changed in it: it is another branch's with its roles, and
    whoever made it asked for no others."""
    row = await tx.fetch_row(
        """SELECT count(*) AS roles, count(pending_verifier) AS asked, bool_or(verifier IS NOT NULL) AS has_verifiers
             FROM pg_role WHERE branch_id = $1""",
        branch_id,
    )
    assert row is not None
    return bool(row["roles"] and not row["asked"] and row["has_verifiers"])


async def begin_anew(tx: Transaction, branch_id: BranchId) -> None:
    """Its data was replaced while nothing ran: the next start of each endpoint is a first one."""
    await tx.execute(
        """UPDATE endpoint SET state = 'init', is_clean = true, updated_at = now()
            WHERE branch_id = $1 AND type = 'read_write'""",
        branch_id,
    )


async def running(tx: Transaction) -> list[Endpoint]:
    """Those that have a compute, by our word, deleted ones included."""
    rows = await tx.fetch("SELECT * FROM endpoint WHERE socket_dir IS NOT NULL ORDER BY id")
    return [endpoint_of(row) for row in rows]


async def history_retentions(tx: Transaction) -> dict[EndpointId, int]:
    """In seconds, of everything that runs and writes."""
    rows = await tx.fetch(
        """SELECT e.id, kept_history(b.timeline_id, p.history_retention_seconds) AS seconds
             FROM endpoint e JOIN project p ON p.id = e.project_id JOIN branch b ON b.id = e.branch_id
            WHERE e.socket_dir IS NOT NULL AND e.type = 'read_write'"""
    )
    return {EndpointId(row["id"]): row["seconds"] for row in rows}


async def awake(tx: Transaction) -> list[Endpoint]:
    """Those whose compute serves clients, and on which no operation works: the ones that may be found idle."""
    rows = await tx.fetch(
        """SELECT e.* FROM endpoint e
            WHERE e.state = 'active' AND e.socket_dir IS NOT NULL AND e.deleted_at IS NULL
              AND NOT EXISTS (SELECT FROM operation o WHERE o.endpoint_id = e.id
                                AND o.status IN ('scheduling', 'running', 'cancelling'))
            ORDER BY e.id"""
    )
    return [endpoint_of(row) for row in rows]


async def outliving(tx: Transaction) -> list[Endpoint]:
    """Those that were deleted, disabled or held and have a compute all the same, with nobody at work who would stop it."""
    rows = await tx.fetch(
        """SELECT e.* FROM endpoint e
            WHERE e.socket_dir IS NOT NULL
              AND (e.deleted_at IS NOT NULL OR e.is_disabled
                   OR EXISTS (SELECT FROM hold h WHERE h.project_id = e.project_id AND h.endpoint_id IN ('', e.id) AND h.role = ''))
              AND NOT EXISTS (SELECT FROM operation o WHERE (o.endpoint_id = e.id OR o.branch_id = e.branch_id)
                                AND o.status IN ('scheduling', 'running', 'cancelling'))
            ORDER BY e.id"""
    )
    return [endpoint_of(row) for row in rows]


async def ids_of_project(tx: Transaction, project_id: str) -> list[EndpointId]:
    """Deleted ones included."""
    rows = await tx.fetch("SELECT id FROM endpoint WHERE project_id = $1 ORDER BY id", project_id)
    return [EndpointId(row["id"]) for row in rows]


async def project_has_compute(tx: Transaction, project_id: str) -> bool:
    """Standbys that are just being made or taken away included."""
    return bool(
        await tx.fetch_value(
            """SELECT EXISTS (SELECT FROM endpoint WHERE project_id = $1 AND socket_dir IS NOT NULL)
                      OR EXISTS (SELECT FROM standby WHERE project_id = $1)""",
            project_id,
        )
    )


async def size_of_branch(tx: Transaction, project_id: ProjectId, branch_id: BranchId) -> tuple[float, dict[str, str]]:
    """`max_cu` and `pg_settings` of its writer, or the project's defaults where it has none."""
    row = await tx.fetch_row(
        """SELECT max_cu, pg_settings FROM endpoint
            WHERE branch_id = $1 AND type = 'read_write' AND deleted_at IS NULL""",
        branch_id,
    )
    if row is None:
        defaults = await defaults_of(tx, project_id)
        return defaults.max_cu, defaults.pg_settings
    return row["max_cu"], msgspec.json.decode(row["pg_settings"], type=dict[str, str])


async def size_of_reader(
    tx: Transaction, project_id: ProjectId, branch_id: BranchId, endpoint_id: EndpointId
) -> tuple[float, dict[str, str]]:
    """`max_cu` and `pg_settings` of a read-only endpoint; for a standby that is no endpoint's, those of the branch."""
    row = await tx.fetch_row("SELECT max_cu, pg_settings FROM endpoint WHERE id = $1", endpoint_id)
    if row is None:
        return await size_of_branch(tx, project_id, branch_id)
    return row["max_cu"], msgspec.json.decode(row["pg_settings"], type=dict[str, str])


async def is_reader(tx: Transaction, endpoint_id: EndpointId) -> bool:
    """Also one that was deleted."""
    return bool(
        await tx.fetch_value("SELECT EXISTS (SELECT FROM endpoint WHERE id = $1 AND type = 'read_only')", endpoint_id)
    )


async def owed_starts(tx: Transaction) -> list[EndpointId]:
    """Those that should run and do not: they were running when something died, or their catalog copy is not to be
    trusted until their server has been asked. A reader owes nothing to anybody: who wants it connects."""
    rows = await tx.fetch(
        """SELECT e.id FROM endpoint e JOIN project p ON p.id = e.project_id
            WHERE e.state = 'idle' AND (e.desired = 'active' OR NOT e.is_clean) AND NOT e.is_disabled
              AND e.type = 'read_write'
              AND e.deleted_at IS NULL AND p.deleted_at IS NULL
              AND NOT EXISTS (SELECT FROM operation o WHERE o.endpoint_id = e.id
                                AND o.status IN ('scheduling', 'running', 'cancelling'))
            ORDER BY e.last_active_at DESC NULLS LAST""",
    )
    return [EndpointId(row["id"]) for row in rows]


async def operations_under_way(tx: Transaction, endpoint_id: EndpointId, action: str) -> list[OperationId]:
    """Oldest first."""
    rows = await tx.fetch(
        """SELECT id FROM operation
            WHERE endpoint_id = $1 AND action = $2 AND status IN ('scheduling', 'running', 'cancelling')
            ORDER BY number""",
        endpoint_id,
        action,
    )
    return [OperationId(row["id"]) for row in rows]


def endpoint_of(row: Any) -> Endpoint:
    return Endpoint(
        id=EndpointId(row["id"]),
        project_id=ProjectId(row["project_id"]),
        branch_id=BranchId(row["branch_id"]),
        type=row["type"],
        min_cu=row["min_cu"],
        max_cu=row["max_cu"],
        suspend_timeout_seconds=row["suspend_timeout_seconds"],
        pg_settings=msgspec.json.decode(row["pg_settings"], type=dict[str, str]),
        is_disabled=row["is_disabled"],
        desired=State(row["desired"]),
        state=State(row["state"]),
        generation=row["generation"],
        socket_dir=row["socket_dir"],
        is_clean=row["is_clean"],
        started_at=row["started_at"],
        last_active_at=row["last_active_at"],
        suspended_at=row["suspended_at"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )
