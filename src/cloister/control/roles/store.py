"""Rows of `pg_role` and `pg_database`: what a branch's catalog held when it was last read, and what is asked of it.

A role's `verifier` is what pg_authid held; `pending_verifier` is what an operation under way will put there. A sleeping
branch honours the pending one at once (the gateway checks it, and the wake waits for the operation); a running branch
honours what its server says.
"""

from typing import Any, Final

from cloister.base.database import Transaction
from cloister.base.errors import NotFoundError, UnprocessableError
from cloister.base.ids import BranchId, EndpointId, ProjectId
from cloister.control.roles.model import DatabaseInfo, Role
from cloister.control.roles.passwords import Vault
from cloister.control.roles.server import DatabaseState, RoleState

ROLES_OF_PROJECT_MAX: Final = 100_000
# Some 50 MB in memory. A project with more is looked at as far as that.


async def branch_exists(tx: Transaction, project_id: ProjectId, branch_id: BranchId) -> None:
    """Raises NotFoundError unless both are there and belong together."""
    found = await tx.fetch_value(
        """SELECT true FROM branch b JOIN project p ON p.id = b.project_id
            WHERE p.id = $1 AND b.id = $2 AND p.deleted_at IS NULL AND b.deleted_at IS NULL""",
        project_id,
        branch_id,
    )
    if not found:
        raise NotFoundError(f"no branch {branch_id} in {project_id}", public="branch not found")


async def writer_of(tx: Transaction, project_id: ProjectId, branch_id: BranchId) -> EndpointId:
    """The endpoint whose compute may change the branch. Raises NotFoundError, UnprocessableError."""
    await branch_exists(tx, project_id, branch_id)
    endpoint_id = await tx.fetch_value(
        "SELECT id FROM endpoint WHERE branch_id = $1 AND type = 'read_write' AND deleted_at IS NULL", branch_id
    )
    if endpoint_id is None:
        raise UnprocessableError(f"{branch_id} has no writer", public="branch has no read-write endpoint")
    return EndpointId(endpoint_id)


async def stores_passwords(tx: Transaction, project_id: ProjectId) -> bool:
    return bool(await tx.fetch_value("SELECT store_passwords FROM project WHERE id = $1", project_id))


# ── roles ──


async def roles_of(tx: Transaction, branch_id: BranchId) -> list[Role]:
    rows = await tx.fetch("SELECT * FROM pg_role WHERE branch_id = $1 ORDER BY created_at, name", branch_id)
    return [_role(row) for row in rows]


async def roles_of_project(tx: Transaction, project_id: ProjectId) -> list[Role]:
    """On all its branches that are there."""
    rows = await tx.fetch(
        """SELECT r.* FROM pg_role r JOIN branch b ON b.id = r.branch_id JOIN project p ON p.id = b.project_id
            WHERE p.id = $1 AND p.deleted_at IS NULL AND b.deleted_at IS NULL
            ORDER BY r.created_at, r.branch_id, r.name LIMIT $2""",
        project_id,
        ROLES_OF_PROJECT_MAX,
    )
    return [_role(row) for row in rows]


async def get_role(tx: Transaction, branch_id: BranchId, name: str) -> Role:
    row = await tx.fetch_row("SELECT * FROM pg_role WHERE branch_id = $1 AND name = $2", branch_id, name)
    if row is None:
        raise NotFoundError(f"no role {name!r} in {branch_id}", public="role not found")
    return _role(row)


async def hold_role(tx: Transaction, branch_id: BranchId, name: str) -> None:
    """Nobody changes the row before the transaction ends; the catalog is read without holding the project."""
    await tx.execute("SELECT FROM pg_role WHERE branch_id = $1 AND name = $2 FOR NO KEY UPDATE", branch_id, name)


async def has_role(tx: Transaction, branch_id: BranchId, name: str) -> bool:
    return bool(
        await tx.fetch_value("SELECT EXISTS (SELECT FROM pg_role WHERE branch_id = $1 AND name = $2)", branch_id, name)
    )


async def add_role(
    tx: Transaction, branch_id: BranchId, name: str, *, pending_verifier: str, can_login: bool, sealed: bytes | None
) -> Role:
    row = await tx.fetch_row(
        """INSERT INTO pg_role (branch_id, name, pending_verifier, can_login, password)
           VALUES ($1, $2, $3, $4, $5) RETURNING *""",
        branch_id,
        name,
        pending_verifier,
        can_login,
        sealed,
    )
    assert row is not None
    return _role(row)


async def ask_verifier(
    tx: Transaction, branch_id: BranchId, name: str, pending_verifier: str, sealed: bytes | None
) -> Role:
    """Raises NotFoundError."""
    row = await tx.fetch_row(
        """UPDATE pg_role SET pending_verifier = $3, password = $4, updated_at = now()
            WHERE branch_id = $1 AND name = $2 RETURNING *""",
        branch_id,
        name,
        pending_verifier,
        sealed,
    )
    if row is None:
        raise NotFoundError(f"no role {name!r} in {branch_id}", public="role not found")
    return _role(row)


async def pending_verifier(tx: Transaction, branch_id: BranchId, name: str) -> str | None:
    verifier: str | None = await tx.fetch_value(
        "SELECT pending_verifier FROM pg_role WHERE branch_id = $1 AND name = $2", branch_id, name
    )
    return verifier


async def note_verifier(tx: Transaction, branch_id: BranchId, name: str, verifier: str | None) -> None:
    """What the server has just before it gets another: to give back if the change cannot be finished."""
    await tx.execute(
        "UPDATE pg_role SET verifier = $3 WHERE branch_id = $1 AND name = $2 AND pending_verifier IS NOT NULL",
        branch_id,
        name,
        verifier,
    )


async def noted_verifier(tx: Transaction, branch_id: BranchId, name: str) -> str | None:
    verifier: str | None = await tx.fetch_value(
        "SELECT verifier FROM pg_role WHERE branch_id = $1 AND name = $2", branch_id, name
    )
    return verifier


async def settle_verifier(tx: Transaction, branch_id: BranchId, name: str) -> None:
    """The server has it now."""
    await tx.execute(
        """UPDATE pg_role SET verifier = pending_verifier, pending_verifier = NULL, updated_at = now()
            WHERE branch_id = $1 AND name = $2 AND pending_verifier IS NOT NULL""",
        branch_id,
        name,
    )


async def forget_verifier(tx: Transaction, branch_id: BranchId, name: str) -> None:
    """The server will not get it."""
    await tx.execute(
        """UPDATE pg_role SET pending_verifier = NULL, password = NULL
            WHERE branch_id = $1 AND name = $2 AND pending_verifier IS NOT NULL""",
        branch_id,
        name,
    )


async def remove_role(tx: Transaction, branch_id: BranchId, name: str) -> None:
    await tx.execute("DELETE FROM pg_role WHERE branch_id = $1 AND name = $2", branch_id, name)


async def sealed_password(tx: Transaction, branch_id: BranchId, name: str) -> bytes | None:
    sealed: bytes | None = await tx.fetch_value(
        "SELECT password FROM pg_role WHERE branch_id = $1 AND name = $2", branch_id, name
    )
    return sealed


# ── databases ──


async def databases_of(tx: Transaction, branch_id: BranchId) -> list[DatabaseInfo]:
    rows = await tx.fetch("SELECT * FROM pg_database WHERE branch_id = $1 ORDER BY id", branch_id)
    return [_database(row) for row in rows]


async def get_database(tx: Transaction, branch_id: BranchId, name: str) -> DatabaseInfo:
    row = await tx.fetch_row("SELECT * FROM pg_database WHERE branch_id = $1 AND name = $2", branch_id, name)
    if row is None:
        raise NotFoundError(f"no database {name!r} in {branch_id}", public="database not found")
    return _database(row)


async def hold_database(tx: Transaction, branch_id: BranchId, name: str) -> None:
    """As `hold_role`."""
    await tx.execute("SELECT FROM pg_database WHERE branch_id = $1 AND name = $2 FOR NO KEY UPDATE", branch_id, name)


async def has_database(tx: Transaction, branch_id: BranchId, name: str) -> bool:
    return bool(
        await tx.fetch_value(
            "SELECT EXISTS (SELECT FROM pg_database WHERE branch_id = $1 AND name = $2)", branch_id, name
        )
    )


async def add_database(tx: Transaction, branch_id: BranchId, name: str, owner_name: str) -> DatabaseInfo:
    row = await tx.fetch_row(
        "INSERT INTO pg_database (branch_id, name, owner_name) VALUES ($1, $2, $3) RETURNING *",
        branch_id,
        name,
        owner_name,
    )
    assert row is not None
    return _database(row)


async def change_database(
    tx: Transaction, branch_id: BranchId, name: str, *, new_name: str, owner_name: str
) -> DatabaseInfo:
    row = await tx.fetch_row(
        """UPDATE pg_database SET name = $3, owner_name = $4, updated_at = now()
            WHERE branch_id = $1 AND name = $2 RETURNING *""",
        branch_id,
        name,
        new_name,
        owner_name,
    )
    if row is None:
        raise NotFoundError(f"no database {name!r} in {branch_id}", public="database not found")
    return _database(row)


async def remove_database(tx: Transaction, branch_id: BranchId, name: str) -> None:
    await tx.execute("DELETE FROM pg_database WHERE branch_id = $1 AND name = $2", branch_id, name)


async def settle_database(tx: Transaction, branch_id: BranchId, name: str, owner_name: str, *, was: str) -> None:
    """The server has it now, under this name; the row may have gone while the catalog was read before that."""
    if was != name:
        await remove_database(tx, branch_id, was)
    await tx.execute(
        """INSERT INTO pg_database (branch_id, name, owner_name) VALUES ($1, $2, $3)
           ON CONFLICT (branch_id, name) DO UPDATE SET owner_name = excluded.owner_name, updated_at = now()
            WHERE pg_database.owner_name <> excluded.owner_name""",
        branch_id,
        name,
        owner_name,
    )


# ── the copy of a whole catalog ──


async def keep_catalog(
    tx: Transaction, branch_id: BranchId, roles: list[RoleState], databases: list[DatabaseState]
) -> None:
    """Make the copy what the server said. Creation times and ids of what stays are kept; a sealed password goes where
    somebody changed the verifier by SQL; what an operation under way has asked for stays asked for."""
    await tx.execute(
        """WITH roles AS (
               SELECT * FROM unnest($2::text[], $3::text[], $4::boolean[], $5::timestamptz[])
                             AS r (name, verifier, can_login, valid_until)),
           databases AS (
               SELECT * FROM unnest($6::text[], $7::text[]) AS d (name, owner_name)),
           gone_roles AS (
               DELETE FROM pg_role WHERE branch_id = $1 AND name <> ALL ($2::text[]) AND pending_verifier IS NULL),
           gone_databases AS (
               DELETE FROM pg_database WHERE branch_id = $1 AND name <> ALL ($6::text[])),
           kept_roles AS (
               INSERT INTO pg_role (branch_id, name, verifier, can_login, valid_until) SELECT $1, roles.* FROM roles
               ON CONFLICT (branch_id, name) DO UPDATE
                  SET verifier = excluded.verifier, can_login = excluded.can_login, valid_until = excluded.valid_until,
                      password = CASE WHEN pg_role.verifier IS NOT DISTINCT FROM excluded.verifier THEN pg_role.password END,
                      updated_at = now()
                WHERE (pg_role.verifier, pg_role.can_login, pg_role.valid_until)
                      IS DISTINCT FROM (excluded.verifier, excluded.can_login, excluded.valid_until))
           INSERT INTO pg_database (branch_id, name, owner_name) SELECT $1, databases.* FROM databases
           ON CONFLICT (branch_id, name) DO UPDATE SET owner_name = excluded.owner_name, updated_at = now()
            WHERE pg_database.owner_name IS DISTINCT FROM excluded.owner_name""",
        branch_id,
        [role.name for role in roles],
        [role.verifier for role in roles],
        [role.can_login for role in roles],
        [role.valid_until for role in roles],
        [database.name for database in databases],
        [database.owner_name for database in databases],
    )


async def as_it_stands(tx: Transaction, branch_id: str, *, holds: bool = False) -> bytes:
    """The same for as long as the copy, and the compute that it is of, are what they were. `holds`: and stay so until the
    transaction ends. Whoever writes a whole copy locks the endpoint first: a suspend, a first configuration, and who asks here."""
    if holds:
        await tx.execute("SELECT FROM endpoint WHERE branch_id = $1 ORDER BY id FOR NO KEY UPDATE", branch_id)
        await tx.execute("SELECT FROM pg_role WHERE branch_id = $1 ORDER BY name FOR NO KEY UPDATE", branch_id)
    state: bytes = await tx.fetch_value(
        """SELECT sha256(convert_to(concat_ws('/',
                      (SELECT string_agg(r::text, '/' ORDER BY r.name) FROM pg_role r WHERE r.branch_id = $1),
                      (SELECT string_agg(d::text, '/' ORDER BY d.name) FROM pg_database d WHERE d.branch_id = $1),
                      (SELECT string_agg(concat_ws(' ', e.id, e.generation, e.socket_dir), '/' ORDER BY e.id)
                         FROM endpoint e WHERE e.branch_id = $1 AND e.type = 'read_write')), 'UTF8'))""",
        branch_id,
    )
    return state


async def copy_catalog(tx: Transaction, source_id: BranchId, target_id: BranchId, vault: Vault) -> None:
    """Make the target's copy the source's, passwords that are kept sealed included. What is asked for in the source is
    asked for in the target too: it may or may not have come to lie in the data that was copied. What somebody has asked for in the
    target itself stays asked for."""
    asked = await asked_by_operations(tx, target_id)
    rows = await tx.fetch(
        "SELECT * FROM pg_role WHERE branch_id = $1 AND name <> ALL ($2::text[]) ORDER BY created_at, name",
        source_id,
        asked,
    )
    await tx.execute(
        """WITH gone AS (
               DELETE FROM pg_role WHERE branch_id = $1 AND name <> ALL ($2::text[]) AND name <> ALL ($8::text[]))
           INSERT INTO pg_role (branch_id, name, verifier, pending_verifier, can_login, valid_until, password)
           SELECT $1, r.* FROM unnest($2::text[], $3::text[], $4::text[], $5::boolean[], $6::timestamptz[], $7::bytea[]) r
           ON CONFLICT (branch_id, name) DO UPDATE
              SET verifier = excluded.verifier, pending_verifier = excluded.pending_verifier, can_login = excluded.can_login,
                  valid_until = excluded.valid_until, password = excluded.password, updated_at = now()""",
        target_id,
        [row["name"] for row in rows],
        [row["verifier"] for row in rows],
        [row["pending_verifier"] for row in rows],
        [row["can_login"] for row in rows],
        [row["valid_until"] for row in rows],
        [_sealed_anew(vault, source_id, target_id, row) for row in rows],
        asked,
    )
    await copy_databases(tx, source_id, target_id)


def _sealed_anew(vault: Vault, source_id: BranchId, target_id: BranchId, row: Any) -> bytes | None:
    if row["password"] is None:
        return None
    return vault.seal(target_id, row["name"], vault.open(source_id, row["name"], row["password"]))


async def copy_databases(tx: Transaction, source_id: BranchId, target_id: BranchId) -> None:
    await tx.execute(
        """WITH gone AS (
               DELETE FROM pg_database WHERE branch_id = $2
                  AND name NOT IN (SELECT name FROM pg_database WHERE branch_id = $1))
           INSERT INTO pg_database (branch_id, name, owner_name)
           SELECT $2, name, owner_name FROM pg_database WHERE branch_id = $1 ORDER BY id
           ON CONFLICT (branch_id, name) DO UPDATE SET owner_name = excluded.owner_name, updated_at = now()
            WHERE pg_database.owner_name IS DISTINCT FROM excluded.owner_name""",
        source_id,
        target_id,
    )


async def forget_catalog(tx: Transaction, branch_id: BranchId) -> None:
    """Nobody knows what the branch's data holds until its server has been asked."""
    await tx.execute("DELETE FROM pg_role WHERE branch_id = $1", branch_id)
    await tx.execute("DELETE FROM pg_database WHERE branch_id = $1", branch_id)


# ── what roles are to have after their secrets were scrubbed ──


async def ask_for(
    tx: Transaction, branch_id: BranchId, name: str, pending_verifier: str | None, sealed: bytes | None
) -> None:
    """A role, perhaps one that the branch does not have yet; without a verifier it cannot log in."""
    await tx.execute(
        """INSERT INTO pg_role (branch_id, name, pending_verifier, can_login, password)
           VALUES ($1, $2, $3::text, $3::text IS NOT NULL, $4)
           ON CONFLICT (branch_id, name) DO UPDATE
              SET pending_verifier = excluded.pending_verifier, password = coalesce(excluded.password, pg_role.password)""",
        branch_id,
        name,
        pending_verifier,
        sealed,
    )


async def asked(tx: Transaction, branch_id: BranchId) -> dict[str, str]:
    """Role → the verifier that is asked for."""
    rows = await tx.fetch(
        "SELECT name, pending_verifier FROM pg_role WHERE branch_id = $1 AND pending_verifier IS NOT NULL", branch_id
    )
    return {row["name"]: row["pending_verifier"] for row in rows}


async def only_asked(tx: Transaction, branch_id: BranchId) -> None:
    """Its data holds no verifier any more."""
    await tx.execute("UPDATE pg_role SET verifier = NULL WHERE branch_id = $1", branch_id)


async def forget_asked(tx: Transaction, branch_id: BranchId) -> None:
    """Its data stays what it was."""
    await tx.execute(
        "DELETE FROM pg_role WHERE branch_id = $1 AND pending_verifier IS NOT NULL AND verifier IS NULL", branch_id
    )
    await tx.execute("UPDATE pg_role SET pending_verifier = NULL WHERE branch_id = $1", branch_id)


async def asked_by_operations(tx: Transaction, branch_id: BranchId) -> list[str]:
    """Roles that are being made, or given another password, at somebody's word."""
    rows = await tx.fetch(
        """SELECT input ->> 'name' AS name FROM operation
            WHERE branch_id = $1 AND machine IN ('create_role', 'set_password')
              AND status IN ('scheduling', 'running', 'cancelling')""",
        branch_id,
    )
    return [row["name"] for row in rows]


async def settle_all(
    tx: Transaction, branch_id: BranchId, roles: list[RoleState], databases: list[DatabaseState]
) -> None:
    """The server has what was asked for, and this is all it has; but for what an operation is to bring it yet."""
    await tx.execute(
        """UPDATE pg_role SET verifier = pending_verifier, pending_verifier = NULL
            WHERE branch_id = $1 AND pending_verifier IS NOT NULL AND name <> ALL ($2::text[])""",
        branch_id,
        await asked_by_operations(tx, branch_id),
    )
    await keep_catalog(tx, branch_id, roles, databases)


def _role(row: Any) -> Role:
    return Role(
        branch_id=BranchId(row["branch_id"]),
        name=row["name"],
        can_login=row["can_login"],
        verifier=row["pending_verifier"] or row["verifier"],
        valid_until=row["valid_until"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def _database(row: Any) -> DatabaseInfo:
    return DatabaseInfo(
        id=row["id"],
        branch_id=BranchId(row["branch_id"]),
        name=row["name"],
        owner_name=row["owner_name"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )
