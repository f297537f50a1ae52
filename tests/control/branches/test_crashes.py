"""Every machine of branches, crashed everywhere."""

from datetime import timedelta
from typing import Any

import pytest

from cloister.base.secret import Secret
from cloister.control.branches.making import BranchesWorld
from cloister.control.branches.model import HEAD, SCHEMA_ONLY, BranchCreated, NewBranch, Point, Restore
from cloister.control.branches.operations import (
    CREATE_BRANCH,
    DELETE_BRANCH,
    DELETE_TIMELINE,
    FINALIZE_RESTORE,
    PURGE_BRANCH,
    RESTORE_BRANCH,
    TAKE_SNAPSHOT,
)
from cloister.control.computes.model import NewEndpoint
from cloister.control.computes.operations import FIRST_START, ComputesWorld
from cloister.control.operations.machine import Machine
from cloister.control.roles.passwords import Vault
from cloister.control.services import ProjectCreated
from tests.control.branches.scenes import CAUSE, protect
from tests.control.land import CALLER, Land
from tests.crashes import Case, every_step_survives_a_crash

A_MOMENT = timedelta(seconds=1)


def world_of(land: Land) -> BranchesWorld:
    plane = land.plane
    return BranchesWorld(
        land.database,
        land.node,
        plane.runner,
        plane.suspender,
        plane.sessions,
        plane.gateways,
        Vault(Secret(b"c" * 32)),
    )


async def forget_operations(land: Land, project_id: str) -> None:
    """The ones that the verb submitted: the one under trial takes their place."""
    async with land.database.transaction() as tx:
        await tx.execute("UPDATE operation SET after_id = NULL WHERE project_id = $1", project_id)
        await tx.execute("DELETE FROM operation WHERE project_id = $1", project_id)


async def child_of(land: Land, created: ProjectCreated, **new: Any) -> BranchCreated:
    child: BranchCreated = await land.control.branches.create(
        CALLER, created.project.id, NewBranch(name="dev", endpoints=[NewEndpoint(branch_id=created.branch.id)], **new)
    )
    return child


async def grown_child_of(land: Land, created: ProjectCreated) -> BranchCreated:
    child = await child_of(land, created)
    await land.settle()
    land.node.write(child.endpoints[0].id, "mine")
    return child


async def look_at(land: Land, created: ProjectCreated) -> dict[str, Any]:
    """Everything that a machine of branches may change, by name instead of by id. What a verb has only announced (`init`,
    a snapshot without its LSN) is left out: a failed operation takes that back too. What is owed a start gets it."""
    await land.plane.reconciler.start_owed()
    async with land.database.reading() as tx:
        branches = await tx.fetch(
            """SELECT b.name, b.state, b.deleted_at IS NOT NULL AS deleted, b.purged_at IS NOT NULL AS purged,
                      p.name AS parent, b.is_default, b.timeline_id, b.replaces_id IS NULL AS is_final,
                      array(SELECT e.state || ' ' || e.desired FROM endpoint e
                             WHERE e.branch_id = b.id AND e.deleted_at IS NULL) AS endpoints,
                      array(SELECT name || coalesce(verifier, '-') IS NOT NULL FROM pg_role WHERE branch_id = b.id) AS roles
                 FROM branch b LEFT JOIN branch p ON p.id = b.parent_id
                WHERE b.project_id = $1 AND (b.purged_at IS NULL OR b.name NOT LIKE 'br-%') ORDER BY b.name, b.id""",
            created.project.id,
        )
        snapshots = await tx.fetch(
            "SELECT name FROM snapshot WHERE project_id = $1 AND deleted_at IS NULL AND lsn IS NOT NULL",
            created.project.id,
        )
        alive = await tx.fetch_value(
            "SELECT count(*) FROM timeline WHERE project_id = $1 AND state = 'ready'", created.project.id
        )
    image = land.node.images[created.project.id]
    return {
        "branches": {
            row["name"]: {
                **{key: value for key, value in dict(row).items() if key not in ("name", "timeline_id")},
                "words": image.timelines[row["timeline_id"]].words() if row["timeline_id"] in image.timelines else None,
            }
            for row in branches
            if not row["purged"] and row["state"] != "init"
        },
        "snapshots": [tuple(row) for row in snapshots],
        "timelines": (len(image.timelines), alive),
        "frozen": sum(timeline.is_frozen for timeline in image.timelines.values()),
        "running": len(land.node.computes),
        "scrubbed": sorted(
            timeline.words() for timeline in image.timelines.values()
            if any(role.verifier is None for role in timeline.catalog.roles.values())
        ),
    }  # fmt: skip


SCENES = {
    "create of a running parent": CREATE_BRANCH,
    "create of a sleeping parent": CREATE_BRANCH,
    "create at a moment": CREATE_BRANCH,
    "create of a protected parent": CREATE_BRANCH,
    "create of a schema": CREATE_BRANCH,
    "restore": RESTORE_BRANCH,
    "restore with preserve": RESTORE_BRANCH,
    "delete": DELETE_BRANCH,
    "purge": PURGE_BRANCH,
    "snapshot": TAKE_SNAPSHOT,
    "delete of a timeline": DELETE_TIMELINE,
    "finalize": FINALIZE_RESTORE,
}


class Cases:
    def __init__(self, land: Land, scene: str) -> None:
        self._land = land
        self._scene = scene

    async def __call__(self) -> Case[BranchesWorld]:
        land = self._land
        land.node.computes.clear()
        created = await land.project()
        land.clock.advance(A_MOMENT)
        land.node.write(created.endpoint.id, "one")
        branch_id, given = await self._set(created)
        await forget_operations(land, created.project.id)

        async def look() -> Any:
            return await look_at(land, created)

        return Case(
            world=world_of(land),
            input=given,
            look=look,
            project_id=created.project.id,
            branch_id=branch_id,
            resource=f"trial:{branch_id}",
        )

    async def _set(self, created: ProjectCreated) -> tuple[str, dict[str, Any]]:
        land, project_id = self._land, created.project.id
        match self._scene:
            case "create of a running parent":
                child = await child_of(land, created)
                return child.branch.id, child.operations[0].input
            case "create of a sleeping parent":
                await land.plane.suspender.at_once(created.endpoint.id, CAUSE)
                child = await child_of(land, created)
                return child.branch.id, child.operations[0].input
            case "create at a moment":
                at = land.clock.now()
                land.clock.advance(A_MOMENT)
                land.node.write(created.endpoint.id, "two")
                child = await child_of(land, created, point=Point(at=at))
                return child.branch.id, child.operations[0].input
            case "create of a protected parent":
                await protect(land, created)
                child = await child_of(land, created)
                return child.branch.id, child.operations[0].input
            case "create of a schema":
                child = await child_of(land, created, init_source=SCHEMA_ONLY)
                return child.branch.id, child.operations[0].input
            case "restore" | "restore with preserve":
                child = await grown_child_of(land, created)
                name = "dev_old" if self._scene == "restore with preserve" else None
                done = await land.control.branches.restore(
                    CALLER,
                    project_id,
                    child.branch.id,
                    Restore(source_id=created.branch.id, preserve_under_name=name),
                )
                return child.branch.id, done.operations[0].input
            case "delete" | "purge":
                child = await grown_child_of(land, created)
                await land.control.branches.delete(CALLER, project_id, child.branch.id, hard=self._scene == "purge")
                return child.branch.id, {}
            case "snapshot":
                _, operations = await land.control.snapshots.create(
                    CALLER, project_id, created.branch.id, name="snap", point=HEAD, expires_at=None
                )
                return created.branch.id, operations[0].input
            case "delete of a timeline":
                snapshot, operations = await land.control.snapshots.create(
                    CALLER, project_id, created.branch.id, name="snap", point=HEAD, expires_at=None
                )
                await land.settle()
                return created.branch.id, {"timeline_id": snapshot.timeline_id}
            case _:
                snapshot, _ = await land.control.snapshots.create(
                    CALLER, project_id, created.branch.id, name="snap", point=HEAD, expires_at=None
                )
                await land.settle()
                restored = await land.control.snapshots.restore(
                    CALLER, project_id, snapshot.id, name="again", target_id=created.branch.id, is_final=False
                )
                await land.settle()
                _, operations = await land.control.snapshots.finalize(
                    CALLER, project_id, restored.branch.id, name="main_old"
                )
                return restored.branch.id, operations[0].input


@pytest.mark.parametrize("scene", SCENES)
async def test_survives_crashes(still_land: Land, scene: str) -> None:
    machine = SCENES[scene]
    unreached = {"scrub"} if machine is CREATE_BRANCH and "protected" not in scene else set()
    await every_step_survives_a_crash(
        machine, Cases(still_land, scene), still_land.database, unreached=frozenset(unreached)
    )


class FirstStarts:
    def __init__(self, land: Land) -> None:
        self._land = land

    async def __call__(self) -> Case[ComputesWorld]:
        """Of a child of a protected branch: everything but the first start itself."""
        land, plane = self._land, self._land.plane
        land.node.computes.clear()
        created = await land.project()
        await protect(land, created)
        child = await child_of(land, created)
        async with land.database.transaction() as tx:
            await tx.execute("DELETE FROM operation WHERE endpoint_id = $1", child.endpoints[0].id)
        await land.settle()

        async def look() -> Any:
            row = await land.row(child.endpoints[0].id)
            runs = child.endpoints[0].id in land.node.computes
            timeline = land.node.find_timeline(child.branch.timeline_id)
            assert timeline is not None
            asked = child.passwords[0].role.verifier
            async with land.database.reading() as tx:
                role = await tx.fetch_row("SELECT * FROM pg_role WHERE branch_id = $1", child.branch.id)
            assert role is not None
            return {
                "runs": runs,
                "state": row["state"],
                # What a failed first start has set is found again by the next one.
                "is_set": timeline.catalog.roles["neondb_owner"].verifier == asked if runs else None,
                "is_settled": (role["verifier"] == asked, role["pending_verifier"] is None),
            }

        return Case(
            world=ComputesWorld(
                land.database, plane.runner, plane.suspender, plane.sessions, plane.gateways, plane.standbys
            ),
            input={},
            look=look,
            project_id=created.project.id,
            branch_id=child.branch.id,
            endpoint_id=child.endpoints[0].id,
            resource=f"trial:{child.endpoints[0].id}",
        )


async def test_the_first_start_of_a_child_survives_crashes(still_land: Land) -> None:
    machine: Machine[ComputesWorld] = FIRST_START
    await every_step_survives_a_crash(machine, FirstStarts(still_land), still_land.database)
