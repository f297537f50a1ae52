"""Rows of `project` and `volume`, in and out."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec

from cloister.base.database import Transaction, jsonb
from cloister.base.errors import NotFoundError
from cloister.base.ids import BranchId, OrgId, ProjectId, TimelineId
from cloister.control.calling import Page
from cloister.control.projects.model import About, EndpointDefaults, Project, ProjectSettings, Tagged


@dataclass(frozen=True, slots=True)
class Volume:
    """Made for a project that need not exist yet; its id is the project's to be."""

    project_id: ProjectId
    branch_id: BranchId
    timeline_id: TimelineId
    uid: int
    pg_version: int
    size_bytes: int
    state: str


# ── projects ──


async def find(
    tx: Transaction, org_ids: Sequence[OrgId], project_ids: Sequence[ProjectId], page: Page, search: str | None
) -> list[Project]:
    """All of the organizations', and these; newest first. `search` is a part of a name or an id. After a cursor that is none of
    theirs there is nothing, or it would tell whether somebody else has such a project, and since when."""
    rows = await tx.fetch(
        """SELECT p.* FROM project p
             LEFT JOIN project c ON c.id = $3 AND (c.org_id = ANY ($1::text[]) OR c.id = ANY ($5::text[]))
            WHERE p.deleted_at IS NULL AND (p.org_id = ANY ($1::text[]) OR p.id = ANY ($5::text[]))
              AND ($2::text IS NULL OR position(lower($2) IN lower(p.name)) > 0 OR position($2 IN p.id) > 0)
              AND ($3::text IS NULL OR p.created_at < c.created_at OR (p.created_at = c.created_at AND p.id > c.id))
            ORDER BY p.created_at DESC, p.id
            LIMIT $4""",
        list(org_ids),
        search,
        page.cursor,
        page.limit,
        list(project_ids),
    )
    return [project_of(row) for row in rows]


async def get(tx: Transaction, project_id: ProjectId) -> Project:
    row = await tx.fetch_row("SELECT * FROM project WHERE id = $1 AND deleted_at IS NULL", project_id)
    if row is None:
        raise NotFoundError(f"no project {project_id}", public="project not found")
    return project_of(row)


_OF_BRANCH: Final = "b.tags || CASE WHEN b.is_protected THEN '{protected}'::text[] ELSE '{}'::text[] END"
_IN: Final = "FROM project p WHERE p.id = $1 AND (p.deleted_at IS NULL OR $2)"

_ABOUT_ALL: Final = f"""SELECT p.*, ARRAY(SELECT unnest({_OF_BRANCH}) FROM branch b
                               WHERE b.project_id = p.id AND (b.tags <> '{{}}' OR b.is_protected) AND b.purged_at IS NULL)
                       || ARRAY(SELECT unnest(s.tags) FROM snapshot s
                               WHERE s.project_id = p.id AND s.tags <> '{{}}' AND s.deleted_at IS NULL) AS tags_about {_IN}"""  # noqa: S608 - literals

_ABOUT_ONE: Final = {
    "branch_id": f"""SELECT p.*, (SELECT {_OF_BRANCH} FROM branch b
                                  WHERE b.id = $3 AND b.project_id = p.id) AS tags_about {_IN}""",  # noqa: S608 - literals
    "endpoint_id": f"""SELECT p.*, (SELECT {_OF_BRANCH} FROM endpoint e JOIN branch b ON b.id = e.branch_id
                                    WHERE e.id = $3 AND e.project_id = p.id) AS tags_about {_IN}""",  # noqa: S608 - literals
    "snapshot_id": f"""SELECT p.*, (SELECT s.tags || {_OF_BRANCH} FROM snapshot s JOIN branch b ON b.id = s.branch_id
                                    WHERE s.id = $3 AND s.project_id = p.id) AS tags_about {_IN}""",  # noqa: S608 - literals
    "access_id": f"""SELECT p.*, (SELECT {_OF_BRANCH} FROM access_request a JOIN branch b ON b.id = a.branch_id
                                  WHERE a.id = $3 AND a.project_id = p.id) AS tags_about {_IN}""",  # noqa: S608 - literals
}  # fmt: skip
# One for each, and no more general one: PostgreSQL would plan that anew at every call, which takes longer than the look.


async def about(tx: Transaction, project_id: ProjectId, about: About, *, and_deleted: bool) -> Tagged:
    """One statement: every call about a project takes it. Whether a deleted one can be recovered is not looked at."""
    row = None
    for name, query in _ABOUT_ONE.items():
        if (named := getattr(about, name)) is not None:
            row = await tx.fetch_row(query, project_id, and_deleted, named)
            break
    # An id that leads nowhere, and a project that is not there: alike in time, too.
    if row is None or row["tags_about"] is None:
        row = await tx.fetch_row(_ABOUT_ALL, project_id, and_deleted)
    if row is None:
        raise NotFoundError(f"no project {project_id}", public="project not found")
    return Tagged(project_of(row), frozenset((*row["tags"], *row["tags_about"])))


# A project that was deleted and can be recovered still has its volume; one that is destroyed has not.
_RECOVERABLE: Final = """SELECT p.* FROM project p JOIN volume v ON v.project_id = p.id AND v.state = 'taken'
                          WHERE p.deleted_at IS NOT NULL"""


async def get_deleted(tx: Transaction, project_id: ProjectId, since: datetime | None = None) -> Project:
    """One that was deleted (after `since`) and has all it had. Raises NotFoundError."""
    row = await tx.fetch_row(
        f"{_RECOVERABLE} AND p.id = $1 AND ($2::timestamptz IS NULL OR p.deleted_at > $2)", project_id, since
    )
    if row is None:
        raise NotFoundError(f"no deleted project {project_id}", public="project not found")
    return project_of(row)


async def find_deleted(
    tx: Transaction,
    org_ids: Sequence[OrgId],
    project_ids: Sequence[ProjectId],
    page: Page,
    search: str | None,
    *,
    since: datetime,
) -> list[Project]:
    """As `find`, of those that can be recovered; the last deleted first."""
    rows = await tx.fetch(
        f"""SELECT d.* FROM ({_RECOVERABLE}) d
              LEFT JOIN project c ON c.id = $3 AND (c.org_id = ANY ($1::text[]) OR c.id = ANY ($5::text[]))
             WHERE d.deleted_at > $6 AND (d.org_id = ANY ($1::text[]) OR d.id = ANY ($5::text[]))
               AND ($2::text IS NULL OR position(lower($2) IN lower(d.name)) > 0 OR position($2 IN d.id) > 0)
               AND ($3::text IS NULL OR d.deleted_at < c.deleted_at OR (d.deleted_at = c.deleted_at AND d.id > c.id))
             ORDER BY d.deleted_at DESC, d.id
             LIMIT $4""",  # noqa: S608 - literals
        list(org_ids),
        search,
        page.cursor,
        page.limit,
        list(project_ids),
        since,
    )
    return [project_of(row) for row in rows]


async def past_recovery(tx: Transaction, before: datetime) -> list[Project]:
    """Deleted before that moment, and still there."""
    rows = await tx.fetch(f"{_RECOVERABLE} AND p.deleted_at <= $1 ORDER BY p.deleted_at", before)
    return [project_of(row) for row in rows]


async def half_destroyed(tx: Transaction, before: datetime) -> list[Project]:
    """Whose destruction was begun, and nobody is at it any more since that moment."""
    rows = await tx.fetch(
        """SELECT p.* FROM project p JOIN volume v ON v.project_id = p.id AND v.state = 'deleting'
            WHERE p.deleted_at IS NOT NULL
              AND NOT EXISTS (SELECT FROM operation o WHERE o.project_id = p.id
                                 AND (o.status IN ('scheduling', 'running', 'cancelling') OR o.finished_at > $1))
            ORDER BY p.deleted_at""",
        before,
    )
    return [project_of(row) for row in rows]


async def add(tx: Transaction, project: Project) -> Project:
    row = await tx.fetch_row(
        """INSERT INTO project (id, org_id, owner_id, name, region_id, pg_version, store_passwords,
                                history_retention_seconds, settings, default_endpoint_settings)
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::jsonb, $10::jsonb) RETURNING *""",
        project.id,
        project.org_id,
        project.owner_id,
        project.name,
        project.region_id,
        project.pg_version,
        project.store_passwords,
        project.history_retention_seconds,
        jsonb(project.settings),
        jsonb(project.default_endpoint_settings),
    )
    assert row is not None
    return project_of(row)


async def change(tx: Transaction, project: Project) -> Project:
    row = await tx.fetch_row(
        """UPDATE project SET name = $2, history_retention_seconds = $3, settings = $4::jsonb,
                  default_endpoint_settings = $5::jsonb, updated_at = now()
            WHERE id = $1 RETURNING *""",
        project.id,
        project.name,
        project.history_retention_seconds,
        jsonb(project.settings),
        jsonb(project.default_endpoint_settings),
    )
    assert row is not None
    return project_of(row)


async def delete(tx: Transaction, project_id: ProjectId) -> None:
    """Nobody finds or wakes it any more. Its endpoints get the same `deleted_at`, by which `recover` knows them. Its bytes
    are the machines' business."""
    await tx.execute("UPDATE project SET deleted_at = now() WHERE id = $1 AND deleted_at IS NULL", project_id)
    await tx.execute(
        "UPDATE endpoint SET deleted_at = now(), desired = 'idle' WHERE project_id = $1 AND deleted_at IS NULL",
        project_id,
    )


async def recover(tx: Transaction, project: Project) -> Project:
    """As it was. Branches kept their rows; an endpoint that was deleted before the project stays so."""
    await tx.execute(
        "UPDATE endpoint SET deleted_at = NULL, updated_at = now() WHERE project_id = $1 AND deleted_at = $2",
        project.id,
        project.deleted_at,
    )
    row = await tx.fetch_row(
        "UPDATE project SET deleted_at = NULL, updated_at = now() WHERE id = $1 RETURNING *", project.id
    )
    assert row is not None
    return project_of(row)


async def org_exists(tx: Transaction, org_id: OrgId) -> bool:
    return bool(await tx.fetch_value("SELECT EXISTS (SELECT FROM organization WHERE id = $1)", org_id))


# ── volumes ──


async def take_volume(tx: Transaction, pg_version: int) -> Volume | None:
    """The oldest one that is ready; two projects that are created at once take two."""
    row = await tx.fetch_row(
        """UPDATE volume SET state = 'taken'
            WHERE project_id = (SELECT project_id FROM volume WHERE state = 'ready' AND pg_version = $1
                                 ORDER BY created_at LIMIT 1 FOR UPDATE SKIP LOCKED)
           RETURNING *""",
        pg_version,
    )
    return None if row is None else _volume(row)


async def add_volume(
    tx: Transaction,
    project_id: ProjectId,
    branch_id: BranchId,
    timeline_id: TimelineId,
    *,
    pg_version: int,
    size_bytes: int,
) -> Volume:
    row = await tx.fetch_row(
        """INSERT INTO volume (project_id, branch_id, timeline_id, uid, pg_version, size_bytes, state)
           VALUES ($1, $2, $3, nextval('compute_uid'), $4, $5, 'formatting') RETURNING *""",
        project_id,
        branch_id,
        timeline_id,
        pg_version,
        size_bytes,
    )
    assert row is not None
    return _volume(row)


async def volume(tx: Transaction, project_id: str) -> Volume:
    row = await tx.fetch_row("SELECT * FROM volume WHERE project_id = $1", project_id)
    if row is None:
        raise NotFoundError(f"no volume of {project_id}")
    return _volume(row)


async def mark_volume(tx: Transaction, project_id: str, state: str) -> None:
    await tx.execute("UPDATE volume SET state = $2 WHERE project_id = $1", project_id, state)


async def spare_volumes(tx: Transaction, pg_version: int) -> int:
    """How many are ready to be taken."""
    return int(
        await tx.fetch_value("SELECT count(*) FROM volume WHERE state = 'ready' AND pg_version = $1", pg_version)
    )


async def unfinished_volume(tx: Transaction) -> Volume | None:
    """One of the pool whose formatting was begun: a project's own is its machine's business."""
    row = await tx.fetch_row(
        """SELECT * FROM volume v WHERE state = 'formatting' AND NOT EXISTS (SELECT FROM project WHERE id = v.project_id)
            ORDER BY created_at LIMIT 1"""
    )
    return None if row is None else _volume(row)


def project_of(row: Any) -> Project:
    return Project(
        id=ProjectId(row["id"]),
        org_id=OrgId(row["org_id"]),
        owner_id=row["owner_id"],
        name=row["name"],
        region_id=row["region_id"],
        pg_version=row["pg_version"],
        store_passwords=row["store_passwords"],
        history_retention_seconds=row["history_retention_seconds"],
        settings=msgspec.json.decode(row["settings"], type=ProjectSettings),
        default_endpoint_settings=msgspec.json.decode(row["default_endpoint_settings"], type=EndpointDefaults),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        deleted_at=row["deleted_at"],
        tags=frozenset(row["tags"]),
    )


def _volume(row: Any) -> Volume:
    return Volume(
        project_id=ProjectId(row["project_id"]),
        branch_id=BranchId(row["branch_id"]),
        timeline_id=TimelineId(row["timeline_id"]),
        uid=row["uid"],
        pg_version=row["pg_version"],
        size_bytes=row["size_bytes"],
        state=row["state"],
    )
