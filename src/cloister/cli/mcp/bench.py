"""What an agent may do, whatever it asks for: the workbench between its tools and the API.

What must stay true:

(1) SQL that writes runs on branches that this very process made, and on no other. Which those are is kept in memory only:
    a name or a note at the branch could be forged by whoever may name branches. After a restart there are none.
(2) Such a branch that was made default or protected since is somebody's now, and no longer the agent's.
(3) Only such branches are deleted, recoverably; and each has an expiry, so that what a forgotten agent leaves goes away.
(4) A password is changed on such branches only, where the role is a copy; no existing password is ever changed.
(5) Where a project is given at the start, no other is named to the API.

Every step is a call of the API or a session at the gateway, so the rights of the key and of the role bound the agent from
the other side, and both record it.
"""

import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from cloister.base.secret import Secret
from cloister.cli.api import Json, segment
from cloister.cli.failure import CommandError
from cloister.cli.mcp import sql
from cloister.cli.session import Session, project_path
from cloister.cli.waiting import wait_for

LIST_MAX: Final = 200
# A model does not read longer lists; a person has `cloister branches list`.
BRANCHES_MAX: Final = 10
# At once, of one server: an agent in a circle must not fill a project.
SCHEMA_CHARS_MAX: Final = 200_000

_BRANCH_FIELDS: Final = ("id", "name", "default", "protected", "parent_id", "current_state", "created_at", "expires_at")


class Bench:
    """The tools' work, one call at a time: they share a connection to the API."""

    def __init__(
        self,
        session: Session,
        *,
        project_id: str | None,
        role_name: str | None,
        password: Secret[str] | None,
        lifetime: timedelta,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._session = session
        self._project_id = project_id
        self._role_name = role_name
        self._password = password
        self._lifetime = lifetime
        self._now = now
        self._made: set[str] = set()
        self._passwords: dict[tuple[str, str], Secret[str]] = {}
        self._one_at_a_time = threading.Lock()

    def list_projects(self) -> list[Json]:
        with self._one_at_a_time:
            if self._project_id is not None:
                found = [self._session.api.get(project_path(self._project_id))["project"]]
            else:
                found = _first(self._session.api.pages("/projects", "projects"))
        return [_only(project, ("id", "name", "pg_version", "created_at")) for project in found]

    def list_branches(self, project_id: str | None) -> list[Json]:
        with self._one_at_a_time:
            path = project_path(self._project(project_id))
            found = _first(self._session.api.pages(f"{path}/branches", "branches"))
        return [_only(branch, _BRANCH_FIELDS) | {"may_write": branch["id"] in self._made} for branch in found]

    def describe_schema(self, project_id: str | None, branch: str | None, database: str | None) -> str:
        with self._one_at_a_time:
            path = self._branch_path(project_id, branch)
            name = self._database(path, database)["name"]
            text = str(self._session.api.get(f"{path}/schema", db_name=name)["sql"])
        return _cut(text)

    def compare_schema(self, project_id: str | None, branch: str, base: str | None, database: str | None) -> str:
        """The unified difference; without `base`, from the branch's parent."""
        with self._one_at_a_time:
            project = self._project(project_id)
            path = self._branch_path(project, branch)
            base_id = None if base is None else self._session.branch(project, base)["id"]
            name = self._database(path, database)["name"]
            answer = self._session.api.get(f"{path}/compare_schema", db_name=name, base_branch_id=base_id)
        return _cut(str(answer["diff"]))

    def run_sql(
        self,
        project_id: str | None,
        branch: str | None,
        database: str | None,
        statement: str,
        parameters: Sequence[Any],
        *,
        is_write: bool,
    ) -> Json:
        with self._one_at_a_time:
            project = self._project(project_id)
            found = self._session.branch(project, branch)
            if is_write:
                self._require_own(found)
            login = self._login(project, found["id"], database)
            target = self._session.api.target
            result: Json = sql.run(target, login, statement, parameters, is_read_only=not is_write)
        return result

    def create_branch(self, project_id: str | None, name: str | None, parent: str | None) -> Json:
        with self._one_at_a_time:
            if len(self._made) >= BRANCHES_MAX:
                raise CommandError(f"there are {BRANCHES_MAX} branches of yours already: delete one that is done with")
            project = self._project(project_id)
            branch: Json = {"expires_at": (self._now() + self._lifetime).strftime("%Y-%m-%dT%H:%M:%SZ")}
            if name is not None:
                branch["name"] = name
            if parent is not None:
                branch["parent_id"] = self._session.branch(project, parent)["id"]
            body = {"branch": branch, "endpoints": [{"type": "read_write"}]}
            answer = self._session.api.post(f"{project_path(project)}/branches", body)
            self._made.add(answer["branch"]["id"])
            wait_for(self._session.api, answer.get("operations") or [])
            made = self._session.branch(project, answer["branch"]["id"])
        return _only(made, _BRANCH_FIELDS) | {"may_write": True}

    def delete_branch(self, project_id: str | None, branch: str) -> Json:
        with self._one_at_a_time:
            project = self._project(project_id)
            found = self._session.branch(project, branch)
            self._require_own(found)
            answer = self._session.api.delete(f"{project_path(project)}/branches/{segment(found['id'])}")
            wait_for(self._session.api, answer.get("operations") or [])
            self._made.discard(found["id"])
            self._passwords = {key: value for key, value in self._passwords.items() if key[0] != found["id"]}
        return {"deleted": found["id"], "recoverable": "for seven days, by a person: cloister branches recover"}

    # -- inside

    def _require_own(self, branch: Json) -> None:
        if branch["id"] not in self._made:
            raise CommandError(
                f"branch {branch['name']!r} was not made by this server, so it is only read: call create_branch and "
                "work on the branch that you get"
            )
        if branch.get("default") or branch.get("protected"):
            what = "protected" if branch.get("protected") else "the project's default branch"
            raise CommandError(f"branch {branch['name']!r} is {what} by now, so it is only read")

    def _project(self, given: str | None) -> str:
        if self._project_id is not None and given not in (None, self._project_id):
            raise CommandError(f"this server is for project {self._project_id} alone")
        return self._session.project_id(given or self._project_id)

    def _branch_path(self, project_id: str | None, branch: str | None) -> str:
        project = self._project(project_id)
        return f"{project_path(project)}/branches/{segment(self._session.branch(project, branch)['id'])}"

    def _database(self, path: str, given: str | None) -> Json:
        databases: list[Json] = self._session.api.get(f"{path}/databases").get("databases") or []
        names = [str(database["name"]) for database in databases]
        if given is None and len(databases) == 1:
            return databases[0]
        for database in databases:
            if database["name"] == given:
                return database
        raise CommandError(f"name a database of the branch: {', '.join(names) or 'it has none'}")

    def _login(self, project: str, branch_id: str, database: str | None) -> sql.Login:
        path = f"{project_path(project)}/branches/{segment(branch_id)}"
        chosen = self._database(path, database)
        role = self._role_name or str(chosen["owner_name"])
        uri = urlsplit(
            str(
                self._session.api.get(
                    f"{project_path(project)}/connection_uri",
                    branch_id=branch_id,
                    role_name=role,
                    database_name=chosen["name"],
                )["uri"]
            )
        )
        if uri.hostname is None:
            raise CommandError("the branch has no endpoint to connect to")
        if branch_id in self._made:
            password = self._own_password(path, branch_id, role)
        elif uri.password:
            password = Secret(unquote(uri.password))
        elif self._password is not None:
            password = self._password
        else:
            raise CommandError(
                "this server has no password for that branch. Call create_branch and read there: it is a copy. (A person "
                "can also start the server with --role-name and PGPASSWORD.)"
            )
        return sql.Login(uri.hostname, role, password, str(chosen["name"]))

    def _own_password(self, path: str, branch_id: str, role: str) -> Secret[str]:
        """A new one: the branch is a copy, and nobody else was told of it."""
        if (kept := self._passwords.get((branch_id, role))) is not None:
            return kept
        answer = self._session.api.post(f"{path}/roles/{segment(role)}/reset_password")
        password = Secret(str(answer["role"]["password"]))
        wait_for(self._session.api, answer.get("operations") or [])
        self._passwords[branch_id, role] = password
        return password


def _first(rows: Any) -> list[Json]:
    found = []
    for row in rows:
        found.append(row)
        if len(found) == LIST_MAX:
            break
    return found


def _only(row: Json, names: Sequence[str]) -> Json:
    return {name: row[name] for name in names if row.get(name) is not None}


def _cut(text: str) -> str:
    if len(text) <= SCHEMA_CHARS_MAX:
        return text
    return text[:SCHEMA_CHARS_MAX] + f"\n-- cut after {SCHEMA_CHARS_MAX} characters of {len(text)}"
