"""Plans: empty where nothing differs, and carried out, they lead to what was wanted, from whatever was there.

Whether they did is not the planner's to say: `judge.py` looks at the rows themselves.
"""

import re
from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings

from cloister.cli.api import Api, ApiError
from cloister.cli.config.applying import CREATION_S, Applier, MovedError
from cloister.cli.config.nouns import KINDS, Node, Value
from cloister.cli.config.parsing import parse
from cloister.cli.config.platform import Platform
from cloister.cli.config.printing import printed
from cloister.cli.failure import CommandError
from tests.cli.config import judge, scene
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
    assert judge.lacking(cloud, first) == []
    assert scene.planned(cloud, first).items == ()
    plan = scene.planned(cloud, second)
    if plan.problems:
        assert all(re.search("cannot become|grows out of it|and owns", each) for each in plan.problems)
        return
    scene.applied(cloud, plan)
    assert judge.lacking(cloud, second) == []
    assert scene.planned(cloud, second).items == ()


TWO_VALUES: dict[str, dict[str, tuple[Value, Value]]] = {
    "organization": {
        "keys.rotate_days": (90, 180),
        "keys.reencrypt_days": (400, "never"),
        "passkeys.required": (True, False),
        "consents.required": (True, False),
        "access_reviews.every_days": (30, "never"),
        "access_reviews.answer_days": (7, 14),
        "access_reviews.unanswered_rights_lapse": (True, False),
        "audit_retention.statements_days": (400, "forever"),
        "audit_retention.recordings_days": (400, 500),
    },
    "project": {
        "history_retention_seconds": (60, 3600),
        "audit_level": ("off", "full"),
        "tags": (["pii", "team-a"], ["prod", "team-a"]),
        "default_branch": ("dev", "main"),
        "block_public_connections": (True, False),
        "require_channel_binding": (True, False),
        "logical_replication": (True, False),
        "ip_allow.addresses": (["192.0.2.7"], ["198.51.100.0/24"]),
        "ip_allow.protected_only": (True, False),
        "quota.active_time_seconds": (1, 2),
        "quota.compute_time_seconds": (1, 2),
        "quota.written_data_bytes": (1, 2),
        "quota.data_transfer_bytes": (1, 2),
        "quota.logical_size_bytes": (1, 2),
        "defaults.min_cu": (0.5, 1.0),
        "defaults.max_cu": (4.0, 8.0),
        "defaults.suspend_timeout_seconds": (60, -1),
        "defaults.pg_settings": ({"work_mem": "1MB"}, {}),
    },
    "egress": {"ca_pem": ("ONE\n", "OTHER\n")},
    "permission": {"role": ("viewer", "admin")},
    "group": {"role": ("viewer", "admin")},
    "member": {"role": ("viewer", "admin")},
    "service_account": {
        "role": ("viewer", "editor"),
        "grants": ({"shop": "viewer"}, {"shop": "admin"}),
        "owner": ("ada@example.com", "bob@example.com"),
        "disabled": (True, False),
    },
    "branch": {
        "protected": (True, False),
        "expires_at": ("2027-01-31T12:00:00Z", "never"),
        "snapshots": (["daily hour=3"], ["monthly", "weekly day=7"]),
        "tags": (["pii"], []),
    },
    "compute": {
        "min_cu": (0.5, 1.0),
        "max_cu": (4.0, 8.0),
        "suspend_timeout_seconds": (60, -1),
        "disabled": (True, False),
        "pg_settings": ({"work_mem": "1MB"}, {}),
    },
    "role": {},
    "database": {"owner": ("web", "app")},
}
TWO_VALUES["reader"] = TWO_VALUES["compute"]
"""Of everything that can be set and changed, by kind and path."""


def saying(kind: str, path: str, value: Value) -> Node:
    """A file that says one thing of one thing, which stands among others."""
    said: dict[str, Value] = {path: value}
    if path.startswith("access_reviews."):
        said = {"access_reviews.every_days": 60, **said}

    def node(of: str, name: str, settings: dict[str, Value] | None = None, **children: tuple[Node, ...]) -> Node:
        return Node(kind=of, name=name, settings=(settings or {}) | (said if of == kind else {}), children=children)

    inside: dict[str, tuple[Node, ...]] = {
        "compute": (node("compute", "compute"),),
        "reader": (node("reader", "1"),),
        "role": (node("role", "app"), node("role", "web")),
        "database": (node("database", "goods", {"owner": "app"}),),
    }
    main = Node(kind="branch", name="main", children={"role": (Node(kind="role", name="app"),)})
    shop = node(
        "project",
        "shop",
        egress=(node("egress", "db.example.com:5432"),),
        permission=(node("permission", "bob@example.com", {"role": "editor"}),),
        branch=(main, node("branch", "dev", {"parent": "main"}, **inside)),
    )
    ada = Node(kind="member", name="ada@example.com", settings={"role": "admin"})
    return node(
        "organization",
        "",
        group=(node("group", "company/dba", {"role": "editor"}),),
        member=(ada, node("member", "bob@example.com", {"role": "editor"})),
        service_account=(node("service_account", "ci"),),
        project=(shop,),
    )


def test_all_that_can_be_changed_is_tried_and_all_that_can_be_said_is_looked_at() -> None:
    changeable = {kind: {it.path for it in of.settings if not it.is_fixed} for kind, of in KINDS.items()}
    assert {kind: set(paths) for kind, paths in TWO_VALUES.items()} == changeable
    assert {kind: set(paths) for kind, paths in judge.LOOKS.items()} == {
        kind: set(of.by_path) for kind, of in KINDS.items()
    }


@pytest.mark.parametrize(
    ("kind", "path"), [(kind, path) for kind, paths in TWO_VALUES.items() for path in paths], ids=lambda it: it
)
def test_each_setting_becomes_what_a_file_says_and_becomes_another(kind: str, path: str) -> None:
    """There and back, so that neither of the two is what it was anyway."""
    cloud, (one, other) = Cloud(), TWO_VALUES[kind][path]
    for value in (one, other, one):
        wanted = saying(kind, path, value)
        settled(cloud, wanted)
        assert judge.lacking(cloud, wanted) == []


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


# ── people and machines ──

TEAM = """
whole = ["group", "member", "service_account"]
[group."company//dba"]
role = "editor"
[member."ada@example.com"]
role = "admin"
[member."bob@example.com"]
role = "viewer"
[service_account.ci]
owner = "ada@example.com"
grants = { shop = "editor" }
disabled = true
[project.shop]
"""


def team() -> Cloud:
    cloud = shop()
    settled(cloud, scene.configuration(TEAM).wanted)
    cloud.asked.clear()
    return cloud


def test_a_team_and_its_machines_are_as_the_file_says() -> None:
    cloud = team()
    (project_id,) = cloud.projects
    assert {it["email"]: it["role"] for it in cloud.members.values()} == {
        "ada@example.com": "admin",
        "bob@example.com": "viewer",
    }
    (ci,) = cloud.service_accounts.values()
    assert (ci["owner"], ci["grants"]) == ("ada@example.com", [{"project_id": project_id, "role": "editor"}])
    assert ci["disabled_at"] is not None
    (group,) = cloud.groups.values()
    assert (group["issuer"], group["group"], group["role"]) == ("company", "/dba", "editor")
    assert steps(cloud, TEAM) == []
    assert steps(cloud, "") == []
    assert PASSWORD not in printed(ORG, scene.exported(cloud))


def test_what_somebody_gave_by_hand_is_found_and_taken_back() -> None:
    cloud = team()
    for it in cloud.members.values():
        it["role"] = "admin"
    cloud.post(f"/organizations/{ORG}/invitations", {"invitations": [{"email": "eve@example.com", "role": "editor"}]})
    cloud.post(f"/cloister/organizations/{ORG}/service_accounts", {"name": "back-door", "key_days": 1})
    (ci,) = (it for it in cloud.service_accounts.values() if it["name"] == "ci")
    ci["grants"][0]["role"] = "admin"
    cloud.post(f"/cloister/organizations/{ORG}/groups", {"issuer": "company", "group": "/dba", "role": "admin"})
    cloud.post(f"/cloister/organizations/{ORG}/groups", {"issuer": "company", "group": "all", "role": "viewer"})
    assert steps(cloud, TEAM) == [
        'change group."company//dba"',
        'change member."bob@example.com"',
        "change service_account.ci",
        "destroy service_account.back-door",
        'destroy member."eve@example.com"',
        'destroy group."company/all"',
    ]
    settled(cloud, scene.configuration(TEAM).wanted)
    assert steps(cloud, TEAM) == []
    assert ci["grants"][0]["role"] == "editor"


def test_there_is_no_moment_without_an_admin() -> None:
    handed_over = TEAM.replace("admin", "x").replace("viewer", "admin").replace('"x"', '"viewer"')
    assert steps(team(), handed_over) == ['change member."bob@example.com"', 'change member."ada@example.com"']


def test_a_grant_is_of_a_project_that_the_same_plan_makes_or_renames() -> None:
    cloud = team()
    text = TEAM.replace('shop = "editor" }', 'store = "editor", new = "viewer" }').replace(
        "[project.shop]", '[project.store]\nwas = "shop"\n[project.new]'
    )
    assert steps(cloud, text) == ["change project.store", "create project.new", "change service_account.ci"]
    settled(cloud, scene.configuration(text).wanted)
    assert steps(cloud, text) == []
    (ci,) = cloud.service_accounts.values()
    names = {cloud.projects[it["project_id"]]["name"]: it["role"] for it in ci["grants"]}
    assert names == {"store": "editor", "new": "viewer"}


def test_a_grant_names_a_project_that_no_file_has_by_its_name_or_its_id() -> None:
    cloud = team()
    (project_id,) = cloud.projects
    for word in ("shop", project_id):
        assert steps(cloud, f'[service_account.ci]\ngrants = {{ {word} = "editor" }}') == []


@pytest.mark.parametrize("has_namesake", [False, True])
def test_a_grant_by_id_is_of_that_project_whatever_another_is_called(has_namesake: bool) -> None:
    """Whoever may name their own project must not get what a machine was granted in another."""
    cloud = team()
    (shop_id,) = cloud.projects
    settled(cloud, scene.configuration("[project.trap]\n[project.third]").wanted)
    _, trap_id, third_id = cloud.projects
    cloud.projects[trap_id]["name"] = shop_id
    cloud.projects[third_id]["name"] = "shop" if has_namesake else "third"
    text = f'[service_account.ci]\ngrants = {{ {shop_id} = "editor" }}'
    assert steps(cloud, text) == []
    settled(cloud, scene.configuration(text.replace("editor", "admin")).wanted)
    (ci,) = cloud.service_accounts.values()
    assert ci["grants"] == [{"project_id": shop_id, "role": "admin"}]
    exported = printed(ORG, scene.exported(cloud))
    assert scene.planned(cloud, parse([("all.toml", exported.encode())]).wanted).items == ()


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("{ shop =", "{ shpo =", "it is granted 'shpo', and there is no such project"),
        ('[member."ada@example.com"]\nrole = "admin"\n', "", "ada@example.com owns it, and would go"),
        ("[project.shop]", '[project.shop]\n[project.shop.permission."eve@example.com"]\nrole = "viewer"', "would go from the organization"),
        ('["group", "member", "service_account"]', '["project"]\n[project.other]', "which would be destroyed"),
        ('[member."ada@example.com"]\nrole = "admin"', '[member."ada@example.com"]\n[member."new@example.com"]', "its role is not said"),
    ],
)  # fmt: skip
def test_what_no_plan_can_do_with_people_is_said(old: str, new: str, why: str) -> None:
    cloud = team()
    cloud.post(f"/organizations/{ORG}/invitations", {"invitations": [{"email": "eve@example.com", "role": "editor"}]})
    text = TEAM.replace(old, new)
    if "destroyed" in why:
        text = text.replace("\n[project.shop]\n", "\n")
    assert why in " ".join(scene.planned(cloud, scene.configuration(text).wanted).problems)


def test_who_has_a_role_by_a_group_is_not_spoken_of_here() -> None:
    """Neither removed where the others are all there are to be, nor exported, nor changed."""
    cloud = team()
    cloud.post(f"/organizations/{ORG}/invitations", {"invitations": [{"email": "eve@example.com", "role": "editor"}]})
    (eve,) = (it for it in cloud.members.values() if it["email"] == "eve@example.com")
    eve["by_groups_of"] = "https://login.example.com"
    assert steps(cloud, TEAM) == []
    assert "eve@" not in printed(ORG, scene.exported(cloud))
    with pytest.raises(CommandError, match=r"by a group at https://login\.example\.com: it is changed there"):
        steps(cloud, TEAM + '[member."eve@example.com"]\nrole = "viewer"')


def test_an_account_that_moved_since_is_not_changed() -> None:
    cloud = team()
    plan = scene.planned(cloud, scene.configuration(TEAM.replace('"editor" }', '"viewer" }')).wanted)
    (ci,) = cloud.service_accounts.values()
    ci["grants"][0]["role"] = "admin"
    cloud.asked.clear()
    with pytest.raises(MovedError, match=r"grants is \{'shop': 'admin'\} and was \{'shop': 'editor'\}"):
        scene.applied(cloud, plan)
    assert cloud.asked == []


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
