"""Backups over HTTP: what is asked of the control plane, and what is answered."""

from datetime import UTC, datetime
from uuid import UUID

from cloister.control.backups.model import Wish
from cloister.control.branches.model import HEAD, Point
from tests.edge.api.world import BRANCH, CHILD, PROJECT, World

BACKUPS = f"/cloister/projects/{PROJECT}/backups"


async def test_a_look_says_what_is_there_and_what_a_loss_would_cost() -> None:
    world = World()
    async with world.client() as client:
        answer = await client.get(BACKUPS)
    (branch,) = answer.json()["branches"]
    assert answer.json()["has_store"] is True
    assert (branch["branch_id"], branch["behind_s"], branch["sent_lsn"]) == (BRANCH, 7, "0/3000000")
    (base,) = branch["bases"]
    assert (base["stop_lsn"], base["bytes"], base["sent_bytes"]) == ("0/200A028", 25_000_000, 3_000_000)


async def test_one_is_asked_for_of_all_branches_or_of_one() -> None:
    world = World()
    async with world.client() as client:
        assert (await client.post(BACKUPS, json={})).status_code == 202
        assert (await client.post(BACKUPS, json={"branch_id": BRANCH})).status_code == 202
        assert (await client.post(f"{BACKUPS}/check", json={"branch_id": BRANCH})).status_code == 202
        assert (await client.post(f"{BACKUPS}/check", json={"restore": True})).status_code == 202
        assert (await client.post(BACKUPS, json={"branch_id": "br../x"})).status_code == 400
    assert world.backups.asked == [("take", None), ("take", BRANCH), ("check", BRANCH), ("try", None)]


async def test_a_branch_is_restored_as_far_as_was_sent_or_as_of_a_place() -> None:
    world = World()
    async with world.client() as client:
        answer = await client.post(f"{BACKUPS}/restore", json={"branch_id": CHILD, "name": "again"})
        assert answer.status_code == 201
        assert {"branch", "endpoints", "operations"} <= set(answer.json())
        for place in ({"lsn": "0/200b000"}, {"timestamp": "2026-11-30T03:00:00Z"}):
            assert (await client.post(f"{BACKUPS}/restore", json=place)).status_code == 201
        both = {"lsn": "0/2", "timestamp": "2026-11-30T03:00:00Z"}
        assert (await client.post(f"{BACKUPS}/restore", json=both)).status_code == 400
    assert world.backups.wishes == [
        Wish(branch_id=CHILD, point=HEAD, name="again"),
        Wish(branch_id=None, point=Point(lsn="0/200B000"), name=None),
        Wish(branch_id=None, point=Point(at=datetime(2026, 11, 30, 3, tzinfo=UTC)), name=None),
    ]


async def test_the_whole_is_brought_back_and_a_project_left_out() -> None:
    world = World()
    async with world.client() as client:
        whole = await client.post(f"{BACKUPS}/restore_project")
        assert (whole.status_code, len(whole.json()["operations"])) == (202, 1)
        assert (await client.post(f"{BACKUPS}/exclude", json={"reason": ""})).status_code == 400
        out = await client.post(f"{BACKUPS}/exclude", json={"reason": "a toy"})
        assert (out.json()["excluded_because"], out.json()["excluded_by"]) == ("a toy", f"user:{UUID(int=1)}")
        assert "excluded_because" not in (await client.post(f"{BACKUPS}/include")).json()
