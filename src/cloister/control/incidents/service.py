"""The playbook: what an operator does about a finding, in one call, at night.

| action | what is so afterwards | undone by |
|---|---|---|
| `end-sessions` | every session that the finding is about has ended; whoever may log in can come again | |
| `lock-role` | the role's sessions have ended, and nobody is let in as it | release |
| `rotate-credentials` | the role's password (or those of all roles of the branch) is worth nothing; its owner sets a new one, which the operator never sees | |
| `quarantine` | nobody is let in to the endpoint, its compute is stopped and cannot be started, and a branch holds its data as it was, if copying it takes no second person's consent | release |
| `freeze-project` | that, for the whole project, without a branch | release |

Each is recorded in the transaction that begins it. The permission is `finding:manage`, and no right in the project: an
operator who may stop a tenant may still not read it.
"""

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Final

from cloister.base.database import Database
from cloister.base.errors import CloisterError, ConflictError, NotFoundError, PreconditionError
from cloister.base.ids import BranchId, EndpointId, ProjectId
from cloister.control.branches.consents import ConsentNeededError
from cloister.control.branches.model import NewBranch
from cloister.control.branches.service import BranchService
from cloister.control.calling import Caller
from cloister.control.computes import holds, store
from cloister.control.computes.gateways import Gateways
from cloister.control.computes.model import Endpoint
from cloister.control.computes.runner import running_of
from cloister.control.computes.service import EndpointService
from cloister.control.computes.sessions import Sessions
from cloister.control.incidents.model import Responded, Response
from cloister.control.operations.engine import Engine
from cloister.control.operations.model import Operation, Status
from cloister.control.roles import store as catalog
from cloister.control.roles.names import is_platform_role
from cloister.control.roles.service import RoleService
from cloister.trust.access.permissions import Permission
from cloister.trust.audit import Action, record
from cloister.trust.sentinel import desk
from cloister.trust.sentinel.desk import Finding

ROTATE_WAIT_S: Final = 60.0
# Of one role: its compute may have to be started.

SUSPEND_WAIT_S: Final = 60.0
# A server checkpoints before it stops. After that the branch is made of what is there.


class Incidents:
    def __init__(
        self,
        database: Database,
        engine: Engine,
        *,
        endpoints: EndpointService,
        branches: BranchService,
        roles: RoleService,
        sessions: Sessions,
        gateways: Gateways,
    ) -> None:
        self._database = database
        self._engine = engine
        self._endpoints = endpoints
        self._branches = branches
        self._roles = roles
        self._sessions = sessions
        self._gateways = gateways

    async def respond(self, caller: Caller, finding_id: str, action: Response) -> Responded:
        """Raises NotFoundError; PreconditionError where the finding does not say what the action needs to know."""
        async with self._database.reading() as tx:
            finding = await desk.get(tx, finding_id)
        if finding.is_test:
            raise PreconditionError(public="this finding is of a self-test: there is nobody to act against")
        match action:
            case Response.END_SESSIONS:
                return await self._end_sessions(caller, finding)
            case Response.LOCK_ROLE:
                return await self._lock_role(caller, finding)
            case Response.ROTATE_CREDENTIALS:
                return await self._rotate(caller, finding)
            case Response.QUARANTINE:
                return await self._quarantine(caller, finding)
            case Response.FREEZE_PROJECT:
                return await self._freeze(caller, finding)

    async def release(self, caller: Caller, finding_id: str) -> Responded:
        """Undo what was held because of this finding."""
        async with self._database.transaction() as tx:
            finding = await desk.get(tx, finding_id)
            released = await holds.release(tx, finding_id)
            if not released:
                raise ConflictError(public=f"nothing is held because of finding {finding_id}")
            await record(tx, desk.event(Action.FINDING_RELEASE, caller, finding, {"released": released}))
        self._gateways.invalidate(project_id=_project(finding))
        return Responded(tuple(f"released {each}" for each in released))

    async def _end_sessions(self, caller: Caller, finding: Finding) -> Responded:
        concerned = await self._concerned(finding)
        await self._note(caller, finding, Response.END_SESSIONS)
        return Responded(
            tuple(await asyncio.gather(*(self._end(each, finding.subject.get("role")) for each in concerned)))
        )

    async def _lock_role(self, caller: Caller, finding: Finding) -> Responded:
        project_id, role = _project(finding), _role(finding)
        await self._hold(caller, finding, Response.LOCK_ROLE, role=role)
        ended = await asyncio.gather(*(self._end(each, role) for each in await self._endpoints.find(project_id)))
        return Responded((f"nobody is let in as {role} to project {project_id}", *ended))

    async def _rotate(self, caller: Caller, finding: Finding) -> Responded:
        project_id = _project(finding)
        said, begun = [], []
        await self._note(caller, finding, Response.ROTATE_CREDENTIALS)
        for branch_id in {endpoint.branch_id for endpoint in await self._concerned(finding)}:
            wanted = finding.subject.get("role")
            async with self._database.reading() as tx:
                known = [role for role in await catalog.roles_of(tx, branch_id) if role.can_login]
            for role in known:
                if is_platform_role(role.name) or wanted not in (None, role.name):
                    continue
                # The new password goes out of scope here: whoever owns the role asks for one of their own.
                # Of one that does not go the others know nothing: each may be in a thief's hands.
                try:
                    changed = await self._roles.reset_password(caller, project_id, branch_id, role.name)
                    begun += changed.operations
                    outcome = await self._outcome(changed.operations[0])
                except CloisterError as error:
                    outcome = (
                        f"is not changed, so far as is known ({error.public}): try again, or lock-role keeps it out"
                    )
                said.append(f"the password of {role.name} on {branch_id} {outcome}")
        if not said:
            raise PreconditionError(public="no role of ours is concerned: it may have been made in SQL; use lock-role")
        return Responded(tuple(said), tuple(begun))

    async def _outcome(self, operation: Operation) -> str:
        """Of one, before the next: one at a time works on an endpoint."""
        ended = await self._engine.wait(operation.id, timeout_s=ROTATE_WAIT_S)
        if ended.status is Status.FINISHED:
            return "is worth nothing: `cloister roles reset-password`"
        return f"could not be changed ({ended.error}): what is held must be released first, or lock-role keeps it out"

    async def _quarantine(self, caller: Caller, finding: Finding) -> Responded:
        project_id = _project(finding)
        endpoint = await self._endpoint(finding)
        await self._hold(caller, finding, Response.QUARANTINE, endpoint_id=endpoint.id)
        begun = await self._put_down(caller, [endpoint])
        name = f"forensic-{finding.id}"
        # The permission to make it is the operator's by this action; nobody reads through it but the project's own people.
        powers = dataclasses.replace(caller, grants=caller.grants | {Permission.BRANCH_CREATE_FROM_PROTECTED})
        shut = f"nobody is let in to {endpoint.id}, and it is not started"
        try:
            made = await self._branches.create(powers, project_id, NewBranch(name=name, parent_id=endpoint.branch_id))
        except ConsentNeededError:
            kept = "its branch is protected, and its organization wants two people for a copy: none was made"
            return Responded((shut, kept), tuple(begun))
        return Responded((shut, f"branch {made.branch.id} ({name}) holds its data"), (*begun, *made.operations))

    async def _freeze(self, caller: Caller, finding: Finding) -> Responded:
        project_id = _project(finding)
        await self._hold(caller, finding, Response.FREEZE_PROJECT)
        begun = await self._put_down(caller, await self._endpoints.find(project_id))
        return Responded(
            (f"nobody is let in to project {project_id}, and none of its computes is started",), tuple(begun)
        )

    async def _hold(
        self, caller: Caller, finding: Finding, action: Response, *, endpoint_id: str = "", role: str = ""
    ) -> None:
        """From the commit on nobody new is let in; gateways end the sessions that run."""
        project_id = _project(finding)
        async with self._database.transaction() as tx:
            if not await tx.fetch_value("SELECT true FROM project WHERE id = $1 AND deleted_at IS NULL", project_id):
                raise NotFoundError(public="the finding's project is gone")
            await holds.put(
                tx,
                project_id,
                endpoint_id=endpoint_id,
                role=role,
                finding_id=finding.id,
                held_by=caller.principal.actor,
            )
            await record(tx, desk.event(Action.FINDING_RESPOND, caller, finding, {"action": action.value}))
        self._gateways.invalidate(project_id=project_id)

    async def _note(self, caller: Caller, finding: Finding, action: Response) -> None:
        async with self._database.transaction() as tx:
            await record(tx, desk.event(Action.FINDING_RESPOND, caller, finding, {"action": action.value}))

    async def _put_down(self, caller: Caller, endpoints: Sequence[Endpoint]) -> list[Operation]:
        begun: list[Operation] = []
        for endpoint in endpoints:
            begun += (await self._endpoints.suspend(caller, endpoint.project_id, endpoint.id))[1]
        for operation in begun:
            await self._engine.wait(operation.id, timeout_s=SUSPEND_WAIT_S)
        return begun

    async def _end(self, endpoint: Endpoint, role: str | None) -> str:
        """End clients' sessions in the server itself: whatever way they came in."""
        if endpoint.socket_dir is None:
            return f"{endpoint.id} is asleep: it has no session"
        async with self._database.reading() as tx:
            placed = await store.placed(tx, endpoint.id)
        async with self._sessions.fresh(running_of(endpoint, placed.pg_version)) as server:
            await server.end_clients(role)
        return f"no session {f'of {role} ' if role else ''}is left at {endpoint.id}"

    async def _concerned(self, finding: Finding) -> list[Endpoint]:
        if "endpoint_id" in finding.subject:
            return [await self._endpoint(finding)]
        return await self._endpoints.find(_project(finding))

    async def _endpoint(self, finding: Finding) -> Endpoint:
        """The finding's, or the only one of its branch or project."""
        project_id = _project(finding)
        if endpoint_id := finding.subject.get("endpoint_id"):
            return await self._endpoints.get(project_id, EndpointId(endpoint_id))
        branch_id = finding.subject.get("branch_id")
        found = await self._endpoints.find(project_id, BranchId(branch_id) if branch_id else None)
        if len(found) != 1:
            raise PreconditionError(
                public=f"the finding names no endpoint, and there are {len(found)}: use freeze-project"
            )
        return found[0]


def _project(finding: Finding) -> ProjectId:
    if "project_id" not in finding.subject:
        raise PreconditionError(public="the finding is about no project")
    return ProjectId(finding.subject["project_id"])


def _role(finding: Finding) -> str:
    if "role" not in finding.subject:
        raise PreconditionError(public="the finding is about no role")
    return finding.subject["role"]
