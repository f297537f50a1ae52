"""Plans: empty where nothing differs, and carried out, they lead to what was wanted, from whatever was there."""

import re
from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings

from cloister.cli.api import Api, ApiError
from cloister.cli.config.applying import CREATION_S, Applier, MovedError
from cloister.cli.config.nouns import Node
from cloister.cli.config.parsing import parse
from cloister.cli.config.platform import Platform
from cloister.cli.config.printing import printed
from tests.cli.config import scene
from tests.cli.config.cloud import ORG, PASSWORD, Cloud

QUICK = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def bare(node: Node) -> Node:
    """Without what says which thing of the platform it is."""
    children = {
        kind: tuple(sorted(map(bare, found), key=lambda each: each.name))
        for kind, found in node.children.items()
        if found
    }
    return replace(node, key="", id="", children=children)


def settled(cloud: Cloud, wanted: Node) -> None:
    scene.applied(cloud, scene.planned(cloud, wanted))


@QUICK
@given(scene.organizations(), scene.organizations())
def test_from_any_state_a_plan_leads_to_what_was_wanted(first: Node, second: Node) -> None:
    """And then there is nothing to do. A tree that hangs otherwise is a problem that the plan names, not a failure."""
    cloud = Cloud()
    settled(cloud, first)
    assert scene.planned(cloud, first).items == ()
    plan = scene.planned(cloud, second)
    if plan.problems:
        assert all(re.search("cannot become|grows out of it|and owns", each) for each in plan.problems)
        return
    scene.applied(cloud, plan)
    assert scene.planned(cloud, second).items == ()


@QUICK
@given(scene.organizations())
def test_what_is_exported_is_what_is_there(wanted: Node) -> None:
    """The plan of an export is empty, an export of it is the same text, and no password is in it."""
    cloud = Cloud()
    settled(cloud, wanted)
    there = scene.exported(cloud)
    text = printed(ORG, there)
    read = parse([("all.toml", text.encode())])
    assert bare(read.wanted) == bare(there)
    assert scene.planned(cloud, read.wanted).items == ()
    assert printed(ORG, scene.exported(cloud)) == text
    assert PASSWORD not in text


SHOP = """
whole = ["project"]
[project.shop]
whole = ["branch"]
[project.shop.branch.main]
protected = true
whole = ["role", "database"]
[project.shop.branch.main.role.app]
[project.shop.branch.main.database.app]
owner = "app"
"""


def shop() -> Cloud:
    cloud = Cloud()
    settled(cloud, scene.configuration(SHOP).wanted)
    cloud.asked.clear()
    return cloud


def steps(cloud: Cloud, text: str) -> list[str]:
    plan = scene.planned(cloud, scene.configuration(text).wanted)
    assert plan.problems == ()
    return [f"{item.action} {item.address}" for item in plan.items]


def problem(cloud: Cloud, text: str) -> str:
    (only,) = scene.planned(cloud, scene.configuration(text).wanted).problems
    return only


def test_what_is_not_spoken_of_is_left_as_it_is() -> None:
    assert steps(shop(), "[project.shop]") == []
    assert steps(shop(), "[project.shop.branch.main]") == []


def test_what_is_there_and_not_among_the_whole_is_destroyed_children_first() -> None:
    cloud = shop()
    more = '[project.shop.branch.one]\nparent = "main"\n[project.shop.branch.two]\nparent = "one"\n'
    settled(cloud, scene.configuration(SHOP + more).wanted)
    assert steps(cloud, SHOP) == ["destroy project.shop.branch.two", "destroy project.shop.branch.one"]
    assert steps(cloud, 'whole = ["project"]') == [f'destroy project."shop {next(iter(cloud.projects))}"']


def test_a_child_begins_with_what_its_parent_has_then() -> None:
    """So nothing is made in it that comes with it, also where its parent gets it in the same plan."""
    child = '[project.shop.branch.main.role.etl]\n[project.shop.branch.dev]\nparent = "main"\nwhole = ["role", "database"]\n'
    roles = "[project.shop.branch.dev.role.app]\n[project.shop.branch.dev.role.etl]\n"
    assert steps(shop(), SHOP + child + roles + '[project.shop.branch.dev.database.app]\nowner = "app"') == [
        "create project.shop.branch.main.role.etl",
        "create project.shop.branch.dev",
    ]


def test_things_get_other_names() -> None:
    cloud = shop()
    text = """
    [project.store]
    was = "shop"
    default_branch = "trunk"
    [project.store.branch.trunk]
    was = "main"
    [project.store.branch.trunk.database.goods]
    was = "app"
    """
    (project_id,) = cloud.projects
    renamed = ["project.store", "project.store.branch.trunk", "project.store.branch.trunk.database.goods"]
    assert steps(cloud, text) == [f"change {each}" for each in renamed]
    settled(cloud, scene.configuration(text).wanted)
    assert steps(cloud, text) == []
    assert cloud.projects[project_id]["name"] == "store"


def test_the_default_branch_goes_once_another_is_it() -> None:
    cloud = shop()
    settled(cloud, scene.configuration("[project.shop.branch.two]\nparent = 'main'").wanted)
    for branch in cloud.branches.values():
        branch.pop("parent_id", None)  # made of a schema alone: nothing hangs on the other
    text = "[project.shop]\nwhole = ['branch']\ndefault_branch = 'two'\n[project.shop.branch.two]"
    assert steps(cloud, text) == ["change project.shop", "destroy project.shop.branch.main"]
    settled(cloud, scene.configuration(text).wanted)
    assert steps(cloud, text) == []


def test_projects_of_one_name_are_told_apart_by_their_ids() -> None:
    cloud = shop()
    settled(cloud, scene.configuration("[project.other]").wanted)
    first, second = cloud.projects
    cloud.projects[second]["name"] = "shop"
    assert "more than once" in problem(cloud, "[project.shop]\nhistory_retention_seconds = 0")
    text = f'[project.one]\nid = "{first}"\nname = "shop"\n[project.two]\nid = "{second}"\nname = "shop"\naudit_level = "off"'
    assert steps(cloud, text) == ["change project.two"]
    assert f'[project."shop {first}"]' in printed(ORG, scene.exported(cloud))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[project.shop]\npg_version = 16", "pg_version is 17 and cannot become 16"),
        ('[project.shop]\nid = "calm-lake-99999999"', "there is none with the id"),
        ('[project.shop]\ndefault_branch = "dev"', "'dev', which is not there"),
        ("[project.shop.branch.dev]", "its parent is not said"),
        ('[project.shop.branch.dev]\nparent = "gone"', "its parent 'gone' neither"),
        ("[project.shop.branch.main.database.more]", "its owner is not said"),
        ("[project.shop.branch.main.role.app]\nlogin = false", "login is True and cannot become False"),
        ('[project.shop.branch.a]\nparent = "b"\n[project.shop.branch.b]\nparent = "a"', "each other's parents"),
        ('[project.shop]\nwhole = ["branch"]', "it would be destroyed, and is the default branch"),
        ("[project.new.branch.a]\n[project.new.branch.b]", "one branch without a parent"),
        ('[project.shop.branch.main]\n[project.shop.branch.trunk]\nwas = "main"', "the same thing"),
    ],
)
def test_what_no_plan_can_do_is_said(text: str, why: str) -> None:
    assert why in " ".join(scene.planned(shop(), scene.configuration(text).wanted).problems)


def test_the_hash_is_of_what_would_be_done_to_what() -> None:
    """The same for the same; another if what was there is another, or the thing is."""
    text = "[project.shop]\nhistory_retention_seconds = 7"
    cloud, wanted = shop(), scene.configuration(text).wanted
    agreed = scene.planned(cloud, wanted).hash
    assert scene.planned(cloud, wanted).hash == agreed
    (project_id,) = cloud.projects
    cloud.projects[project_id]["history_retention_seconds"] = 8
    moved = scene.planned(cloud, wanted).hash
    other = Cloud()
    settled(other, scene.configuration("[project.first]").wanted)
    settled(other, scene.configuration(SHOP.replace('whole = ["project"]', "", 1)).wanted)
    assert len({agreed, moved, scene.planned(other, wanted).hash}) == 3


# ── carrying out ──


def test_a_step_whose_thing_moved_since_is_not_taken() -> None:
    cloud = shop()
    plan = scene.planned(cloud, scene.configuration("[project.shop]\nhistory_retention_seconds = 7").wanted)
    (project_id,) = cloud.projects
    cloud.projects[project_id]["history_retention_seconds"] = 8
    with pytest.raises(MovedError, match="is 8 and was 86400"):
        scene.applied(cloud, plan)
    del cloud.projects[project_id]
    with pytest.raises(MovedError, match="is gone"):
        scene.applied(cloud, plan)
    assert cloud.asked == []


@pytest.mark.parametrize(
    ("text", "method"),
    [
        ("[project.shop]\nhistory_retention_seconds = 7", "PATCH"),
        ("[project.shop]\naudit_level = 'off'", "PUT"),
        ("[project.shop.branch.main]\nsnapshots = ['hourly']", "PUT"),
        ("[project.shop.branch.main]\nwhole = ['database']", "DELETE"),
        ("keys.rotate_days = 7", "PUT"),
        ("passkeys.required = true", "PUT"),
        ("consents.required = true", "PUT"),
    ],
)
def test_what_moves_between_the_look_and_the_call_is_refused_by_the_platform(text: str, method: str) -> None:
    """The last moment there is: whoever applies has looked, and the call is under way."""
    cloud = shop()
    plan = scene.planned(cloud, scene.configuration(text).wanted)
    cloud.asked.clear()

    def meanwhile(called: str, path: str) -> None:
        assert called == method
        (project_id,), branch = cloud.projects, next(iter(cloud.branches))
        cloud.projects[project_id]["name"] = "taken"
        cloud.audit_levels[project_id] = "full"
        cloud.schedules[branch] = [{"frequency": "yearly"}]
        for row in cloud.databases.values():
            row["owner_name"] = "somebody"
        cloud.key_policy = {"rotate_days": 30}
        cloud.passkeys = True
        cloud.consents = {"required": True}

    cloud.before = meanwhile
    with pytest.raises(MovedError, match="was changed while the step was taken"):
        scene.applied(cloud, plan)
    assert cloud.asked == []


def test_what_is_otherwise_than_the_plan_showed_is_not_destroyed() -> None:
    cloud = shop()
    plan = scene.planned(cloud, scene.configuration("[project.shop.branch.main]\nwhole = ['database']").wanted)
    (key,) = cloud.databases
    cloud.databases[key]["owner_name"] = "somebody"
    cloud.asked.clear()
    with pytest.raises(MovedError, match="owner is 'somebody'"):
        scene.applied(cloud, plan)
    del cloud.databases[key]
    with pytest.raises(MovedError, match="is gone"):
        scene.applied(cloud, plan)
    assert cloud.asked == []


def test_what_somebody_else_made_stricter_since_is_not_put_back() -> None:
    """An organization's policy is put as a whole: also what the plan does not change must be as it was."""
    cloud = shop()
    cloud.key_policy = {"rotate_days": 365, "reencrypt_days": 900}
    plan = scene.planned(cloud, scene.configuration("keys.rotate_days = 90").wanted)
    cloud.key_policy = {"rotate_days": 365, "reencrypt_days": 30}
    with pytest.raises(MovedError, match=r"keys\.reencrypt_days is 30 and was 900"):
        scene.applied(cloud, plan)
    assert cloud.key_policy == {"rotate_days": 365, "reencrypt_days": 30}


def test_two_applies_of_one_plan_make_one_project() -> None:
    """At the same time, by one account: the second gets the first one's answer. After it: the second does not begin."""
    cloud, wanted = Cloud(), scene.configuration("[project.shop]").wanted
    plan = scene.planned(cloud, wanted)
    again: list[str] = []

    def meanwhile(method: str, path: str) -> None:
        if not again:
            again.append(path)
            cloud.before = lambda method, path: None
            scene.applied(cloud, plan)

    cloud.before = meanwhile
    scene.applied(cloud, plan)
    assert len(cloud.projects) == 1
    with pytest.raises(MovedError, match="was made since"):
        scene.applied(cloud, plan)


def test_what_was_made_by_the_same_plan_and_is_gone_is_made_anew() -> None:
    """The platform keeps an answer for a day: that of a project which was deleted since must not pass for a new one."""
    cloud, wanted = Cloud(), scene.configuration("[project.shop]\naudit_level = 'full'").wanted
    settled(cloud, wanted)
    cloud.delete(f"/projects/{next(iter(cloud.projects))}")
    settled(cloud, wanted)
    assert list(cloud.audit_levels.values()) == ["full", "full"]


def test_a_creation_that_the_platform_died_with_is_possible_an_hour_later() -> None:
    """It refuses the same key for a day, for it cannot know; the keys of two applies of one hour are one, and then another."""
    keys: list[str | None] = []

    class Refusing(Cloud):
        def post(self, path: str, body: Any = None, *, idempotency_key: str | None = None, **query: Any) -> Any:
            keys.append(idempotency_key)
            raise ApiError(409, "a request with this Idempotency-Key is under way, or was interrupted")

    cloud = Refusing()
    plan = scene.planned(cloud, scene.configuration("[project.shop]").wanted)
    for now in (0.0, CREATION_S - 1.0, float(CREATION_S)):
        applier = Applier(cast("Api", cloud), Platform(cast("Api", cloud), ORG), plan, clock=lambda now=now: now)  # type: ignore[misc]
        with pytest.raises(MovedError, match="another apply of this plan is making"):
            applier.take(plan.items[0])
    assert (keys[0] == keys[1], keys[1] == keys[2]) == (True, False)


def test_a_plan_that_broke_off_goes_on_from_there() -> None:
    cloud, wanted = Cloud(), scene.configuration(SHOP).wanted
    calls: list[str] = []

    def breaks(method: str, path: str) -> None:
        calls.append(path)
        if len(calls) == 2:
            raise ApiError(503, "gone for a moment")

    cloud.before = breaks
    with pytest.raises(ApiError):
        settled(cloud, wanted)
    left = scene.planned(cloud, wanted)
    settled(cloud, wanted)
    assert [item.address for item in left.items] == ["project.shop.branch.main"]
    assert scene.planned(cloud, wanted).items == ()
