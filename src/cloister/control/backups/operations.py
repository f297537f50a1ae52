"""The machine that brings a whole project back whose volume is gone: a new volume under the keys that the project has, and every
branch's timeline under its own id.

A branch is what it was: protected, with its endpoints, its rights and its rows, as after a crash; nothing is copied into another one.
What ran when it was lost is started, as after a crash, and nothing else. A role that was made in the last seconds, and not sent, is in the
rows and not in the data. What the store has nothing for, or cannot be opened, is told and left without data, and holds up no other branch.
It may be asked for again until all of it is done; what is there already stays as it is.

What was found of these branches because there was nothing to send is over with it, and resolved. Other findings are for people: that
a compute crashed may be why the volume is gone, and that something was sent too late says how much is.
"""

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from cloister.base.database import Database, Transaction
from cloister.base.errors import CloisterError, InternalError, NotFoundError, PreconditionError, UnprocessableError
from cloister.control.backups import store
from cloister.control.branches.making import RESTORE_TIMEOUT_S
from cloister.control.computes import store as computes
from cloister.control.computes.agent import Agent
from cloister.control.computes.runner import Cause, Runner
from cloister.control.operations.machine import Go, Machine, Outcome, Step
from cloister.control.operations.model import Operation
from cloister.control.projects import store as projects
from cloister.control.projects.operations import VOLUME_TIMEOUT_S, Keys
from cloister.node.commands import CreateVolume, RestoreTimeline
from cloister.trust.audit import Action, Event, record
from cloister.trust.sentinel import desk

_log = logging.getLogger(__name__)

RESTORE_DEADLINE: Final = timedelta(days=1)
# Some hundred branches, fetched one after the other.

FAILURES_MAX: Final = 2
# After which what fails is taken for what will always fail: each attempt fetches all of it.

NOT_SENT: Final = "backup-failed"
"""The rule whose findings end with a restoration."""

_ACTOR: Final = "platform:operations"


@dataclass(frozen=True, slots=True)
class BackupsWorld:
    """All that this machine may touch."""

    database: Database
    agent: Agent
    keys: Keys
    runner: Runner
    tell_keeper: Callable[[Collection[str]], None]
    """That these timelines are back: what could not be sent while there was nothing is tried at once."""


async def make_volume(operation: Operation, world: BackupsWorld) -> Outcome:
    """Nothing of the project runs any more: what it ran on is gone. An empty volume, with the keys that are there, of which the newest is
    the one that stays: a volume that was encrypted anew has left the others, and they are destroyed. One that this machine made before is
    taken as it is."""
    async with world.database.reading() as tx:
        endpoint_ids = await computes.ids_of_project(tx, operation.project_id)
        volume = await projects.volume(tx, operation.project_id)
    for endpoint_id in endpoint_ids:
        await world.runner.halt(endpoint_id, Cause(_ACTOR, "restored from backups", operation_id=operation.id))
    key = await world.keys.create(operation.project_id)
    await world.agent.call(
        CreateVolume(
            project_id=volume.project_id,
            timeline_id=None,
            pg_version=volume.pg_version,
            uid=volume.uid,
            size_bytes=volume.size_bytes,
            material=key.material,
        ),
        timeout_s=VOLUME_TIMEOUT_S,
    )
    return Go()


async def restore_timelines(operation: Operation, world: BackupsWorld) -> Outcome:
    async with world.database.reading() as tx:
        volume = await projects.volume(tx, operation.project_id)
    restored: list[str] = []
    lost: dict[str, str] = {}
    failed: dict[str, InternalError] = {}
    for work in operation.input["timelines"]:
        command = RestoreTimeline(
            project_id=operation.project_id,
            source_id=work["timeline_id"],
            timeline_id=work["timeline_id"],
            pg_version=volume.pg_version,
            uid=volume.uid,
            known_lsn=work["known_lsn"],
        )
        try:
            await world.agent.call(command, timeout_s=RESTORE_TIMEOUT_S)
        except (PreconditionError, NotFoundError, UnprocessableError) as error:
            lost[work["branch_id"]] = error.public
        except InternalError as error:
            # So is told, too, that no database comes of what was sent. It may have been something else, and is tried again when the others
            # are back.
            failed[work["branch_id"]] = error
        else:
            restored.append(work["branch_id"])
    if failed and operation.failures_count < FAILURES_MAX:
        raise next(iter(failed.values()))
    lost |= {branch_id: error.public for branch_id, error in failed.items()}
    return Go({"restored": restored, "lost": lost})


async def start_what_ran(operation: Operation, world: BackupsWorld) -> Outcome:
    """What ran when it was lost is owed a start, and until its server was asked for its roles a client of it is refused. While there was
    no data every attempt failed, and the next may be a minute away: whoever waits for this operation is not to wait for that, too."""
    async with world.database.reading() as tx:
        owed = await computes.owed_starts(tx)
        endpoint_ids = set(await computes.ids_of_project(tx, operation.project_id))
    for endpoint_id in owed:
        if endpoint_id not in endpoint_ids:
            continue
        world.runner.forgive(endpoint_id)
        try:
            await world.runner.start(endpoint_id, Cause(_ACTOR, "restored from backups", operation_id=operation.id))
        except CloisterError as error:
            # Its data may be among what is lost. It is tried again like whatever else is owed.
            _log.warning("cannot start %s: %s", endpoint_id, error)
    restored = operation.facts["restored"]
    world.tell_keeper({it["timeline_id"] for it in operation.input["timelines"] if it["branch_id"] in restored})
    return Go()


async def tell(operation: Operation, _world: BackupsWorld) -> Outcome:
    facts = operation.facts

    async def apply(tx: Transaction) -> None:
        await store.is_back(tx, facts["restored"])
        resolved = await desk.settled(tx, NOT_SENT, facts["restored"], actor=_ACTOR, note="its data is back")
        details = {"step": "done", "branches": len(facts["restored"]), "lost": " ".join(facts["lost"])}
        await record(
            tx,
            Event(
                action=Action.BACKUP_RESTORE,
                actor=_ACTOR,
                outcome="failed" if facts["lost"] else "ok",
                project_id=operation.project_id,
                operation_id=operation.id,
                reason="; ".join(sorted(set(facts["lost"].values()))),
                details=details,
            ),
            *resolved,
        )

    return Go(apply=apply)


async def work_for(tx: Transaction, project_id: str) -> list[dict[str, Any]]:
    """Every branch that is there, with how far its WAL was sent: a store that shows less keeps something back."""
    return [
        {
            "branch_id": it.branch_id,
            "timeline_id": it.timeline_id,
            "known_lsn": it.known_lsn,
        }
        for it in await store.of_project(tx, project_id)
        if it.deleted_at is None
    ]


RESTORE_PROJECT: Final[Machine[BackupsWorld]] = Machine(
    "restore_project",
    "create_timeline",
    RESTORE_DEADLINE,
    (
        Step("make_volume", make_volume),
        Step("restore_timelines", restore_timelines),
        Step("start_what_ran", start_what_ran),
        Step("tell", tell),
    ),
    has_rollback=False,
)

MACHINES: Final = (RESTORE_PROJECT,)
