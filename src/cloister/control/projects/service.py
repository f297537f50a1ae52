"""The verbs on projects. Each is one transaction: rows, operations, audit event."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from cloister.base.clock import Clock
from cloister.base.database import Database, Transaction
from cloister.base.errors import BadRequestError, BusyError, ConflictError, NotFoundError
from cloister.base.ids import OrgId, ProjectId, new_branch_id, new_project_id, new_timeline_id
from cloister.base.secret import new_password
from cloister.base.settings import Settings
from cloister.control.backups import store as backups
from cloister.control.branches import protection
from cloister.control.branches import store as branches
from cloister.control.branches.model import Branch
from cloister.control.branches.rules import RECOVERABLE_FOR
from cloister.control.calling import Caller, Page
from cloister.control.claims import claim_project, hold_project
from cloister.control.computes import store as computes
from cloister.control.computes.gateways import Gateways
from cloister.control.computes.model import Endpoint, NewEndpoint
from cloister.control.computes.operations import FIRST_START, submit
from cloister.control.computes.service import new_endpoint
from cloister.control.naming import checked_name
from cloister.control.operations.engine import Engine
from cloister.control.operations.machine import Machine
from cloister.control.operations.model import Operation
from cloister.control.projects import store
from cloister.control.projects.engines import Engines
from cloister.control.projects.model import (
    About,
    EndpointDefaults,
    NewProject,
    Project,
    ProjectChange,
    ProjectCreated,
    ProjectSettings,
    Tagged,
)
from cloister.control.projects.operations import (
    CLOSE_PROJECT,
    CREATE_PROJECT,
    DELETE_DEADLINE,
    DELETE_PROJECT,
    PROJECT_RESOURCE,
    ProjectsWorld,
)
from cloister.control.projects.pool import VolumePool
from cloister.control.projects.settings import (
    checked_defaults,
    checked_history,
    checked_settings,
    merged_defaults,
    merged_settings,
    widened,
)
from cloister.control.roles import store as catalog
from cloister.control.roles.names import new_database_name, new_role_name
from cloister.control.roles.passwords import Vault, new_verifier
from cloister.trust.audit import Action, Event, record

_log = logging.getLogger(__name__)

HISTORY_SECONDS_DEFAULT: Final = 86_400

BRANCHES_SHOWN_MAX: Final = 10_000
# Of a recovered project, in one answer: as many as Neon's longest page.

PLATFORM: Final = "platform:api"


class ProjectService:
    def __init__(
        self,
        database: Database,
        engine: Engine,
        *,
        engines: Engines,
        pool: VolumePool,
        vault: Vault,
        gateways: Gateways,
        settings: Settings,
        clock: Clock,
    ) -> None:
        self._database = database
        self._engine = engine
        self._engines = engines
        self._pool = pool
        self._vault = vault
        self._gateways = gateways
        self._settings = settings
        self._clock = clock

    async def create(self, caller: Caller, new: NewProject) -> ProjectCreated:
        """Answers at once. The first role can log in, and its login waits for the compute, from the moment this is
        committed: nobody need wait for the operations."""
        pg_version = await self._engines.chosen(new.pg_version)
        role_name, database_name = new_role_name(new.role_name), new_database_name(new.database_name)
        branch_name = checked_name("branch name", new.branch_name)
        password = new_password()
        verifier = new_verifier(password)

        async with self._database.transaction() as tx:
            volume = await store.take_volume(tx, pg_version)
            is_pooled = volume is not None
            if volume is None:
                volume = await store.add_volume(
                    tx,
                    new_project_id(),
                    new_branch_id(),
                    new_timeline_id(),
                    pg_version=pg_version,
                    size_bytes=self._settings.volume_bytes,
                )
            project = await store.add(tx, await self._project(tx, caller, new, volume))
            branch = await branches.add_root(tx, project.id, volume.branch_id, volume.timeline_id, branch_name)
            endpoint = await computes.add(tx, self._endpoint(project, volume))
            sealed = self._vault.seal(branch.id, role_name, password) if project.store_passwords else None
            role = await catalog.add_role(
                tx, branch.id, role_name, pending_verifier=verifier, can_login=True, sealed=sealed
            )
            database = await catalog.add_database(tx, branch.id, database_name, role_name)
            operations = await self._submit_creation(tx, endpoint, is_pooled=is_pooled)
            details = {"pg_version": pg_version, "store_passwords": project.store_passwords, "from_pool": is_pooled}
            await record(tx, _event(Action.PROJECT_CREATE, caller, project, operations, details))
        self._engine.kick_all(operations)
        self._pool.poke()
        return ProjectCreated(project, branch, endpoint, role, password, database, operations)

    async def find(
        self, org_ids: Sequence[OrgId], page: Page, search: str | None, *, project_ids: Sequence[ProjectId] = ()
    ) -> list[Project]:
        async with self._database.reading() as tx:
            return await store.find(tx, org_ids, project_ids, page, search)

    async def find_deleted(
        self, org_ids: Sequence[OrgId], page: Page, search: str | None, *, project_ids: Sequence[ProjectId] = ()
    ) -> list[Project]:
        async with self._database.reading() as tx:
            return await store.find_deleted(tx, org_ids, project_ids, page, search, since=self._recoverable_since)

    async def get(self, project_id: ProjectId, *, and_deleted: bool = False) -> Project:
        async with self._database.reading() as tx:
            try:
                return await store.get(tx, project_id)
            except NotFoundError:
                if not and_deleted:
                    raise
                return await store.get_deleted(tx, project_id, self._recoverable_since)

    async def about(self, project_id: ProjectId, about: About, *, and_deleted: bool = False) -> Tagged:
        async with self._database.reading() as tx:
            asked = await store.about(tx, project_id, about, and_deleted=and_deleted)
            if asked.project.deleted_at is not None:
                await store.get_deleted(tx, project_id, self._recoverable_since)
            return asked

    async def update(
        self, caller: Caller, project_id: ProjectId, change: ProjectChange
    ) -> tuple[Project, list[Operation]]:
        """Takes effect when it is committed; gateways look at their sessions again at once."""
        async with self._database.transaction() as tx:
            await hold_project(tx, project_id)
            old = await store.get(tx, project_id)
            caller.require_version(old.version)
            project = dataclasses.replace(
                old,
                name=old.name if change.name is None else checked_name("project name", change.name),
                history_retention_seconds=(
                    old.history_retention_seconds
                    if change.history_retention_seconds is None
                    else checked_history(change.history_retention_seconds)
                ),
                settings=merged_settings(old.settings, change.settings or {}),
                default_endpoint_settings=merged_defaults(
                    old.default_endpoint_settings, change.default_endpoint_settings or {}, old.pg_version
                ),
            )
            project = await store.change(tx, project)
            await record(tx, _event(Action.PROJECT_UPDATE, caller, project, [], _differences(old, project)))
        self._gateways.invalidate(project_id=project_id)
        return project, []

    async def delete(
        self, caller: Caller, project_id: ProjectId, *, hard: bool = False
    ) -> tuple[Project, list[Operation]]:
        """Gone for everybody when this is committed. Its operation then ends its computes and closes its volume; `hard`:
        destroys the keys and the bytes, also of one that was deleted before."""
        async with self._database.transaction() as tx:
            project = await self._claim(tx, project_id, and_deleted=hard)
            caller.require_version(project.version)
            protection.refuse_deleting_project(await branches.protected_of(tx, project_id))
            if project.deleted_at is None:
                await store.delete(tx, project_id)
            operation = await self._destroy(tx, project) if hard else await self._submit(tx, CLOSE_PROJECT, project_id)
            details = {"is_recoverable": not hard, **(await self._left(tx, project_id) if hard else {})}
            await record(tx, _event(Action.PROJECT_DELETE, caller, project, [operation], details))
        self._gateways.invalidate(project_id=project_id)
        self._engine.kick_all([operation])
        return project, [operation]

    async def recover(self, caller: Caller, project_id: ProjectId) -> tuple[Project, list[Branch]]:
        """As it was: ids, hosts, roles, passwords, settings, grants. It sleeps until somebody connects."""
        async with self._database.transaction() as tx:
            project = await self._claim(tx, project_id, and_deleted=True)
            if project.deleted_at is None:
                raise ConflictError(f"{project_id} is there", public="project is not deleted")
            project = await store.recover(tx, project)
            found = await branches.find(tx, project_id, Page(BRANCHES_SHOWN_MAX), None)
            await record(tx, _event(Action.PROJECT_RECOVER, caller, project, []))
        self._gateways.invalidate(project_id=project_id)
        return project, found

    async def purge_deleted(self) -> None:
        """Destroy what nobody can recover any more; and what somebody had destroyed, if that gave up: it was promised."""
        async with self._database.reading() as tx:
            due = await store.past_recovery(tx, self._recoverable_since)
            halves = await store.half_destroyed(tx, self._clock.now() - DELETE_DEADLINE)
        for project in (*due, *halves):
            try:
                await self._purge(project, "deleted long enough ago" if project in due else "its destruction gave up")
            except (BusyError, NotFoundError) as error:  # closing yet, or destroyed by hand meanwhile
                _log.info("left for later: %s: %s", project.id, error)

    async def _purge(self, found: Project, reason: str) -> None:
        project_id = found.id
        async with self._database.transaction() as tx:
            await claim_project(tx, project_id, is_deleted=True)
            project = found
            if (await store.volume(tx, project_id)).state != "deleting":
                project = await store.get_deleted(tx, project_id)
                if project.deleted_at is None or project.deleted_at > self._recoverable_since:
                    return  # recovered meanwhile, and deleted again
            operation = await self._destroy(tx, project)
            event = Event(
                action=Action.PROJECT_PURGE,
                actor=PLATFORM,
                org_id=project.org_id,
                project_id=project.id,
                operation_id=operation.id,
                resource=project.name,
                reason=reason,
                details=await self._left(tx, project_id),
            )
            await record(tx, event)
        self._engine.kick_all([operation])

    async def _left(self, tx: Transaction, project_id: ProjectId) -> dict[str, object]:
        """What lies in the store for backups, where nobody can delete it before its time: without the keys it is noise."""
        bases, until = await backups.locked(tx, project_id, self._clock.now())
        return {} if until is None else {"backups": bases, "backups_locked_until": until.isoformat()}

    async def _claim(self, tx: Transaction, project_id: ProjectId, *, and_deleted: bool) -> Project:
        try:
            await claim_project(tx, project_id)
        except NotFoundError:
            if not and_deleted:
                raise
            await claim_project(tx, project_id, is_deleted=True)
            return await store.get_deleted(tx, project_id, self._recoverable_since)
        return await store.get(tx, project_id)

    async def _destroy(self, tx: Transaction, project: Project) -> Operation:
        """From here on nothing brings it back."""
        await branches.delete_all(tx, project.id)
        await store.mark_volume(tx, project.id, "deleting")
        return await self._submit(tx, DELETE_PROJECT, project.id)

    async def _submit(self, tx: Transaction, machine: Machine[ProjectsWorld], project_id: ProjectId) -> Operation:
        return await self._engine.submit(
            tx,
            machine=machine.name,
            project_id=project_id,
            resource=PROJECT_RESOURCE.format(project_id),
            input={},
        )

    @property
    def _recoverable_since(self) -> datetime:
        return self._clock.now() - RECOVERABLE_FOR

    async def _project(self, tx: Transaction, caller: Caller, new: NewProject, volume: store.Volume) -> Project:
        if new.region_id not in (None, self._settings.region_id):
            raise BadRequestError(f"region {new.region_id!r}", public=f"region_id must be {self._settings.region_id}")
        stores = new.store_passwords
        history = new.history_retention_seconds
        return Project(
            id=volume.project_id,
            org_id=await self._org(tx, caller, new.org_id),
            owner_id=caller.principal.account_id,
            name=volume.project_id if new.name is None else checked_name("project name", new.name),
            region_id=self._settings.region_id,
            pg_version=volume.pg_version,
            store_passwords=self._settings.store_passwords if stores is None else stores,
            history_retention_seconds=HISTORY_SECONDS_DEFAULT if history is None else checked_history(history),
            settings=checked_settings(new.settings or ProjectSettings()),
            default_endpoint_settings=checked_defaults(
                new.default_endpoint_settings or EndpointDefaults(), volume.pg_version
            ),
            created_at=self._clock.now(),
            updated_at=self._clock.now(),
        )

    @staticmethod
    async def _org(tx: Transaction, caller: Caller, org_id: OrgId | None) -> OrgId:
        if org_id is None:
            mine = sorted(caller.principal.memberships)
            if len(mine) != 1:
                raise BadRequestError(f"{len(mine)} memberships", public="org_id is required")
            org_id = OrgId(mine[0])
        if not await store.org_exists(tx, org_id):
            raise NotFoundError(f"no organization {org_id}", public="organization not found")
        return org_id

    def _endpoint(self, project: Project, volume: store.Volume) -> Endpoint:
        settings = project.default_endpoint_settings
        defaults = computes.Defaults(
            min_cu=settings.autoscaling_limit_min_cu,
            max_cu=settings.autoscaling_limit_max_cu,
            suspend_timeout_seconds=settings.suspend_timeout_seconds,
            pg_settings=settings.pg_settings,
        )
        new = NewEndpoint(branch_id=volume.branch_id)
        return new_endpoint(project.id, volume.branch_id, new, defaults, self._clock.now(), is_first=True)

    async def _submit_creation(self, tx: Transaction, endpoint: Endpoint, *, is_pooled: bool) -> list[Operation]:
        """A pooled volume can be started from at once; one that is yet to be made, after that."""
        creation = await self._engine.submit(
            tx,
            machine=CREATE_PROJECT.name,
            project_id=endpoint.project_id,
            branch_id=endpoint.branch_id,
            resource=PROJECT_RESOURCE.format(endpoint.project_id),
            input={},
        )
        start = await submit(tx, self._engine, FIRST_START, endpoint, after=None if is_pooled else creation)
        return [creation, start]


def _differences(old: Project, new: Project) -> dict[str, object]:
    fields = ("name", "history_retention_seconds", "settings", "default_endpoint_settings")
    found: dict[str, object] = {
        name: str(getattr(new, name)) for name in fields if getattr(new, name) != getattr(old, name)
    }
    # In words of their own, for those who watch the log.
    if widened(old.settings, new.settings):
        found["widens"] = "allow_list"
    if old.settings.require_channel_binding and not new.settings.require_channel_binding:
        found["loosens"] = "channel_binding"
    if new.history_retention_seconds < old.history_retention_seconds:
        found["shortens"] = "history"
    return found


def _event(
    action: Action,
    caller: Caller,
    project: Project,
    operations: list[Operation],
    details: Mapping[str, object] | None = None,
) -> Event:
    return caller.event(
        action,
        org_id=project.org_id,
        project_id=project.id,
        resource=project.name,
        operations=operations,
        details=details,
    )
