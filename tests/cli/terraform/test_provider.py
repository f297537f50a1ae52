"""What Terraform is answered, against the API in memory."""

import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings

from cloister.cli.api import ApiError
from cloister.cli.config.nouns import KINDS
from cloister.cli.terraform import values
from cloister.cli.terraform.resource import name_of
from cloister.cli.terraform.resources import RESOURCES
from cloister.cli.terraform.sources import EPHEMERAL, SOURCES
from cloister.cli.terraform.values import UNKNOWN
from tests.cli.config.cloud import ORG, PASSWORD, Cloud
from tests.cli.config.scene import COMPUTE, OF_PROJECT
from tests.cli.terraform.core import Core, RefusedError

PROJECT = "cloister_project"
BRANCH = "cloister_branch"


@pytest.fixture
def cloud() -> Cloud:
    return Cloud()


@pytest.fixture
def core(cloud: Cloud) -> Core:
    return Core(cloud)


@pytest.fixture
def shop(core: Core) -> dict[str, Any]:
    return core.made(PROJECT, name="shop", branch_name="main", role_name="app", database_name="shop")


def _main(core: Core, shop: dict[str, Any], **more: Any) -> dict[str, Any]:
    return core.made(BRANCH, project_id=shop["id"], name="main", adopt=True, **more)


def test_a_project_comes_with_what_the_platform_decided(core: Core, shop: dict[str, Any], cloud: Cloud) -> None:
    assert shop["org_id"] == ORG
    assert shop["audit_level"] == "base"
    assert shop["default_branch_id"] in cloud.branches
    assert shop["host"].startswith(shop["default_endpoint_id"])
    said = {"name": "shop", "branch_name": "main", "role_name": "app", "database_name": "shop"}
    assert core.plan(PROJECT, core.read(PROJECT, shop), said).changes == {}


def test_what_nobody_set_stays_what_it_is(core: Core, shop: dict[str, Any], cloud: Cloud) -> None:
    cloud.projects[shop["id"]]["history_retention_seconds"] = 7
    assert core.plan(PROJECT, core.read(PROJECT, shop), {"name": "shop"}).changes == {
        "branch_name": None, "role_name": None, "database_name": None,
    }  # fmt: skip


def test_what_was_set_and_is_otherwise_now_is_found(core: Core, cloud: Cloud) -> None:
    said = {"name": "shop", "ip_allow_addresses": ["192.0.2.7"], "ip_allow_protected_only": True}
    made = core.made(PROJECT, **said)
    cloud.projects[made["id"]]["settings"]["allowed_ips"]["ips"] = ["0.0.0.0/0"]
    plan = core.plan(PROJECT, core.read(PROJECT, made), said)
    assert plan.changes == {"ip_allow_addresses": ["192.0.2.7"]}
    plan.applied()
    assert cloud.asked[-1][2] == {"project": {"settings": {"allowed_ips": {"ips": ["192.0.2.7"]}}}}


def test_what_moved_since_it_was_read_is_not_changed(core: Core, cloud: Cloud) -> None:
    """Terraform compares nothing between a plan and its apply: the platform does."""
    made = core.made(PROJECT, name="shop", history_retention_seconds=7)
    plan = core.plan(PROJECT, core.read(PROJECT, made), {"name": "shop", "history_retention_seconds": 8})
    cloud.projects[made["id"]]["settings"]["allowed_ips"]["ips"] = ["192.0.2.1"]
    asked = len(cloud.asked)
    with pytest.raises(RefusedError, match="If-Match"):
        plan.applied()
    assert (len(cloud.asked), cloud.projects[made["id"]]["history_retention_seconds"]) == (asked, 7)
    said = {"name": "shop", "history_retention_seconds": 8}
    assert core.plan(PROJECT, core.read(PROJECT, made), said).applied()["history_retention_seconds"] == 8


def test_changes_of_one_apply_are_none_of_somebody_elses(core: Core, cloud: Cloud) -> None:
    """Each answer has the next version."""
    made = core.made(PROJECT, name="shop", audit_level="off", tags=["prod"], history_retention_seconds=7)
    now = core.changed(PROJECT, made, name="store", audit_level="full", tags=["team-a"], history_retention_seconds=8)
    assert (now["name"], now["audit_level"], now["tags"]) == ("store", "full", ["team-a"])
    again = core.plan(PROJECT, now, {"name": "shop", "audit_level": "base"}).applied()
    assert (again["name"], again["audit_level"]) == ("shop", "base")


def test_what_moved_is_not_destroyed_and_what_is_gone_is(core: Core, shop: dict[str, Any], cloud: Cloud) -> None:
    main = _main(core, shop)
    base = core.made("cloister_database", project_id=shop["id"], branch_id=main["id"], name="etl", owner="app")
    key = main["id"], "etl"
    cloud.databases[key]["owner_name"] = "somebody"
    with pytest.raises(RefusedError, match="If-Match"):
        core.destroyed("cloister_database", base)
    assert key in cloud.databases
    del cloud.databases[key]
    core.destroyed("cloister_database", base)


def test_a_state_of_before_there_were_versions_is_good(core: Core, shop: dict[str, Any], cloud: Cloud) -> None:
    said = {"name": "shop", "branch_name": "main", "role_name": "app", "database_name": "shop"}
    for number, private in enumerate((None, b"", b"x", b"[]", b'{"versions": 1}')):
        cloud.projects[shop["id"]]["by_hand"] = number
        core.keep(PROJECT, shop, private)
        assert core.plan(PROJECT, shop, said | {"history_retention_seconds": number}).applied()


def test_a_reader_of_a_number_is_made_once(core: Core, shop: dict[str, Any], cloud: Cloud) -> None:
    """Terraform was cut off after the platform had made it, and knows of nothing."""
    main = _main(core, shop)
    said = {"project_id": shop["id"], "branch_id": main["id"], "type": "read_only"}
    endpoint = "cloister_endpoint"
    first, second = (core.made(endpoint, **said, number=number) for number in (1, 2))
    again = Core(cloud).made(endpoint, **said, number=1)
    assert (again["id"] == first["id"], second["id"] == first["id"]) == (True, False)
    # One that was destroyed since must not pass for a new one; without a number, each is another.
    core.destroyed(endpoint, first)
    anew = core.made(endpoint, **said, number=1)
    others = {core.made(endpoint, **said)["id"] for _ in range(2)}
    assert len({first["id"], second["id"], anew["id"]} | others) == 5


def test_a_name_that_is_a_step_in_a_path_is_not_sent(core: Core, shop: dict[str, Any], cloud: Cloud) -> None:
    main, asked = _main(core, shop), len(cloud.asked)
    for name in (".", "..", ""):
        role = {"project_id": shop["id"], "branch_id": main["id"], "name": name, "login": None, "adopt": None}
        with pytest.raises(RefusedError, match="step within a path"):
            core.destroyed("cloister_role", role | {"id": name}, plans=False)
        with pytest.raises(RefusedError):
            core.read("cloister_project", dict.fromkeys(shop) | {"id": name})
    assert len(cloud.asked) == asked


def test_tags_have_a_call_of_their_own_which_says_what_comes_and_what_goes(
    core: Core, shop: dict[str, Any], cloud: Cloud
) -> None:
    main = _main(core, shop, tags=["pii", "team-a"])
    assert cloud.branches[main["id"]]["tags"] == ["pii", "team-a"]
    said = {"project_id": shop["id"], "name": "main", "adopt": True, "tags": ["pii", "team-b"]}
    core.plan(BRANCH, core.read(BRANCH, main), said).applied()
    assert cloud.asked[-1][2] == {"add": ["team-b"], "remove": ["team-a"], "reason": "Terraform"}
    assert core.made(PROJECT, name="other", tags=["prod"])["tags"] == ["prod"]


def test_another_spelling_of_the_same_is_no_change(core: Core, shop: dict[str, Any]) -> None:
    said = {
        "project_id": shop["id"], "name": "dev",
        "snapshots": ["daily retention_seconds=604800 hour=3"], "expires_at": "2027-01-31T13:00:00+01:00",
    }  # fmt: skip
    made = core.made(BRANCH, **said)
    assert core.plan(BRANCH, core.read(BRANCH, made), said).changes == {}


def test_what_cannot_be_changed_makes_another_thing(core: Core, shop: dict[str, Any]) -> None:
    main = _main(core, shop)
    made = core.made(BRANCH, project_id=shop["id"], name="dev", parent_id=main["id"])
    plan = core.plan(BRANCH, made, {"project_id": shop["id"], "name": "dev", "parent_id": made["id"]})
    assert plan.replaces == ["parent_id"]
    plan = core.plan(BRANCH, made, {"project_id": shop["id"], "name": "dev", "parent_id": UNKNOWN})
    assert plan.replaces == ["parent_id"]


def test_a_project_that_nobody_knows_of_is_not_made_again(cloud: Cloud, shop: dict[str, Any]) -> None:
    """An apply that was cut off had made it."""
    with pytest.raises(RefusedError, match=f"import ADDRESS {shop['id']}"):
        Core(cloud).made(PROJECT, name="shop")
    knowing = Core(cloud)
    knowing.read(PROJECT, shop)
    assert knowing.made(PROJECT, name="shop")["id"] != shop["id"]


def test_one_configuration_may_have_two_projects_of_a_name(core: Core, shop: dict[str, Any], cloud: Cloud) -> None:
    assert core.made(PROJECT, name="shop")["id"] != shop["id"]
    assert len(cloud.projects) == 2


def test_an_import_finds_what_is_there_and_destroys_nothing(core: Core, shop: dict[str, Any], cloud: Cloud) -> None:
    main = _main(core, shop)
    endpoint = core.made("cloister_endpoint", project_id=shop["id"], branch_id=main["id"], adopt=True, max_cu=2)
    role = core.made("cloister_role", project_id=shop["id"], branch_id=main["id"], name="etl")
    base = core.made("cloister_database", project_id=shop["id"], branch_id=main["id"], name="etl", owner="etl")
    way = core.made("cloister_egress", project_id=shop["id"], to="db.example.com:5432")
    right = core.made("cloister_permission", project_id=shop["id"], email="Ada@example.com", role="viewer")
    issuer = core.made("cloister_jwks", project_id=shop["id"], jwks_url="https://id.example/keys", provider_name="id")
    member = core.made("cloister_member", email="Bob@example.com", role="viewer")
    machine = core.made("cloister_service_account", name="ci", grants={shop["id"]: "editor"}, owner="ada@example.com")
    all_of_it = core.made("cloister_organization", keys_rotate_days=90)
    for kind, state, words in (
        (PROJECT, shop, shop["id"]),
        (BRANCH, main, f"{shop['id']}/{main['id']}"),
        ("cloister_endpoint", endpoint, f"{shop['id']}/{endpoint['id']}"),
        ("cloister_role", role, f"{shop['id']}/{main['id']}/etl"),
        ("cloister_database", base, f"{shop['id']}/{main['id']}/etl"),
        ("cloister_egress", way, f"{shop['id']}/{way['id']}"),
        ("cloister_permission", right, f"{shop['id']}/ada@example.com"),
        ("cloister_jwks", issuer, f"{shop['id']}/{issuer['id']}"),
        ("cloister_member", member, f"{ORG}/bob@example.com"),
        ("cloister_service_account", machine, f"{ORG}/ci"),
        ("cloister_organization", all_of_it, ORG),
    ):
        resource = RESOURCES[kind]
        found = core.imported(kind, words)
        assert found is not None
        told = {name: value for name, value in state.items() if name not in resource.said_once and name != "email"}
        assert {name: found[name] for name in told} == told
        said = {each.name: state[each.name] for each in resource.schema.attributes if each.may_be_set}
        assert core.plan(kind, found, said).replaces == []
    asked = len(cloud.asked)
    with pytest.raises(RefusedError, match="PROJECT_ID/BRANCH_ID/NAME"):
        core.imported("cloister_role", "etl")
    assert core.imported(PROJECT, "calm-lake-99999999") is None
    assert len(cloud.asked) == asked


def test_what_was_taken_over_stays_when_it_is_forgotten(core: Core, shop: dict[str, Any], cloud: Cloud) -> None:
    main = _main(core, shop, protected=True)
    assert cloud.branches[main["id"]]["protected"]
    main = core.changed(BRANCH, main, project_id=shop["id"], name="main", adopt=True, protected=False)
    core.destroyed(BRANCH, main)
    assert main["id"] in cloud.branches
    assert core.warnings == ["main stays: it was taken over, not made"]


def test_taking_over_what_is_another_thing_is_refused(core: Core, shop: dict[str, Any]) -> None:
    dev = core.made(BRANCH, project_id=shop["id"], name="dev")
    with pytest.raises(RefusedError, match="another parent_id") as refused:
        core.made(BRANCH, project_id=shop["id"], name="main", adopt=True, parent_id=dev["id"])
    assert refused.value.attributes == ["parent_id"]


def test_protected_things_are_not_destroyed_by_any_plan(core: Core, shop: dict[str, Any], cloud: Cloud) -> None:
    dev = core.made(BRANCH, project_id=shop["id"], name="dev", protected=True)
    asked = len(cloud.asked)
    for kind, state in ((BRANCH, dev), (PROJECT, shop)):
        with pytest.raises(RefusedError, match="protected"):
            core.destroyed(kind, state)
    assert len(cloud.asked) == asked

    def before(method: str, path: str) -> None:
        raise ApiError(422, "cannot delete protected branch")

    cloud.before = before
    with pytest.raises(RefusedError, match="cannot delete protected branch") as refused:
        core.destroyed(BRANCH, dev | {"protected": False}, plans=False)  # the platform's own word
    assert refused.value.state is not None


def test_what_is_gone_is_made_again(core: Core, shop: dict[str, Any], cloud: Cloud) -> None:
    dev = core.made(BRANCH, project_id=shop["id"], name="dev")
    del cloud.branches[dev["id"]]
    assert core.read(BRANCH, dev) is None
    core.destroyed(BRANCH, dev)


def test_what_was_made_is_known_though_the_rest_failed(core: Core, cloud: Cloud) -> None:
    def before(method: str, path: str) -> None:
        if path.endswith("audit_level"):
            raise ApiError(403, "audit_level may only be set by admins")

    cloud.before = before
    with pytest.raises(RefusedError, match="only be set by admins") as refused:
        core.made(PROJECT, name="shop", audit_level="extended")
    assert refused.value.attributes == ["audit_level"]
    assert refused.value.state is not None
    assert refused.value.state["id"] in cloud.projects


def test_a_database_gets_another_name_where_it_stands(core: Core, shop: dict[str, Any]) -> None:
    said = {"project_id": shop["id"], "branch_id": shop["default_branch_id"], "owner": "app"}
    made = core.made("cloister_database", name="orders", **said)
    plan = core.plan("cloister_database", made, {**said, "name": "sales"})
    assert plan.changes == {"name": "sales", "id": UNKNOWN}
    assert plan.applied()["id"].endswith("/sales")


def test_no_answer_holds_a_password(core: Core, shop: dict[str, Any]) -> None:
    """The API's answers to these did."""
    role = core.made("cloister_role", project_id=shop["id"], branch_id=shop["default_branch_id"], name="etl")
    machine = core.made("cloister_service_account", name="ci")
    for state in (shop, role, machine):
        assert PASSWORD not in json.dumps(state)
    schemas = [*(each.schema for each in RESOURCES.values()), *(each.schema for each in SOURCES.values())]
    names = {each.name for schema in schemas for each in schema.attributes}
    told = {name for name in names if "password" in name or "key" in name}
    assert told == {"store_passwords", "keys_rotate_days", "keys_reencrypt_days", "passkeys_required"}
    sensitive = {each.name for schema in EPHEMERAL.values() for each in schema.attributes if each.is_sensitive}
    assert sensitive == {"password", "key"}


def _reviewed_every(cloud: Cloud) -> Any:
    return cloud.reviews and cloud.reviews["every_days"]


def test_an_organization_is_said_and_stays(core: Core, cloud: Cloud) -> None:
    said = {"keys_rotate_days": 90, "keys_reencrypt_days": "900", "access_reviews_every_days": "90"}
    said |= {"audit_retention_statements_days": "730"}
    made = core.made("cloister_organization", **said)
    assert cloud.key_policy == {"rotate_days": 90, "reencrypt_days": 900}
    assert _reviewed_every(cloud) == 90
    assert [each["days"] for each in cloud.retentions] == [730]
    assert core.plan("cloister_organization", core.read("cloister_organization", made), said).changes == {}
    # What somebody changes by hand is found, and put back with what stays beside it.
    cloud.key_policy["rotate_days"], cloud.reviews = 365, None
    changed = core.changed("cloister_organization", made, **said)
    assert cloud.key_policy == {"rotate_days": 90, "reencrypt_days": 900}
    assert _reviewed_every(cloud) == 90
    never = core.changed(
        "cloister_organization", changed, keys_reencrypt_days="never", access_reviews_every_days="never"
    )
    assert (cloud.key_policy, cloud.reviews) == ({"rotate_days": 90}, None)
    core.destroyed("cloister_organization", never)
    assert cloud.key_policy == {"rotate_days": 90}
    assert core.warnings == [f"{ORG} stays: it was taken over, not made"]


def test_members_and_machines_change_where_they_stand(core: Core, shop: dict[str, Any], cloud: Cloud) -> None:
    member = core.made("cloister_member", email="bob@example.com", role="viewer")
    with pytest.raises(RefusedError, match="member already"):
        core.made("cloister_member", email="bob@example.com", role="admin")
    again = core.changed("cloister_member", member, email="bob@example.com", role="editor")
    assert (again["id"], cloud.members[again["id"]]["role"]) == (member["id"], "editor")
    core.destroyed("cloister_member", again)
    assert cloud.members == {}
    machine = core.made("cloister_service_account", name="ci", grants={shop["id"]: "editor"}, disabled=True)
    assert cloud.service_accounts[machine["id"]]["disabled_at"]
    cloud.service_accounts[machine["id"]]["grants"].append({"project_id": "other", "role": "admin"})
    said = {"name": "ci", "grants": {shop["id"]: "editor"}, "disabled": False}
    plan = core.plan("cloister_service_account", core.read("cloister_service_account", machine), said)
    assert plan.changes == {"grants": {shop["id"]: "editor"}, "disabled": False}
    plan.applied()
    (account,) = cloud.service_accounts.values()
    assert (account["grants"], account["disabled_at"]) == ([{"project_id": shop["id"], "role": "editor"}], None)
    assert core.changed("cloister_service_account", plan.applied(), name="ci", grants={})["grants"] == {}


def test_what_a_group_gives_changes_where_it_stands(core: Core, cloud: Cloud) -> None:
    """Mapping it again would take over what somebody else mapped: that is for an import."""
    said = {"issuer": "company", "group": "/dba"}
    group = core.made("cloister_group", **said, role="viewer")
    with pytest.raises(RefusedError, match="mapped already: import it"):
        core.made("cloister_group", **said, role="admin")
    again = core.changed("cloister_group", group, **said, role="editor")
    assert (again["id"], cloud.groups[again["id"]]["role"]) == (group["id"], "editor")
    assert core.imported("cloister_group", f"{ORG}/company//dba") == again
    cloud.groups[again["id"]]["role"] = "admin"
    plan = core.plan("cloister_group", core.read("cloister_group", again), said | {"role": "editor"})
    assert plan.changes == {"role": "editor"}
    assert core.plan("cloister_group", again, {"issuer": "company", "group": "ops", "role": "editor"}).replaces == [
        "group"
    ]
    core.destroyed("cloister_group", again)
    assert cloud.groups == {}


def test_another_issuer_is_another_thing(core: Core, shop: dict[str, Any], cloud: Cloud) -> None:
    said = {"project_id": shop["id"], "jwks_url": "https://id.example/keys", "provider_name": "id"}
    made = core.made("cloister_jwks", **said)
    assert made["role_names"] == ["authenticated"]
    assert core.plan("cloister_jwks", core.read("cloister_jwks", made), said).changes == {}
    assert core.plan("cloister_jwks", made, said | {"jwt_audience": "shop"}).replaces == ["jwt_audience"]
    core.destroyed("cloister_jwks", made)
    assert cloud.jwks == {}


def test_an_api_key_is_there_while_it_is_used(core: Core, shop: dict[str, Any], cloud: Cloud) -> None:
    """It is for that project, ends within the hour, and is gone at the end; where somebody revoked it before, all is well."""
    kind = "cloister_api_key"
    asked = dict.fromkeys(EPHEMERAL[kind].types) | {"project_id": shop["id"], "name": "seed"}
    for _ in range(2):
        opened = core.call("OpenEphemeralResource", type_name=kind, config=values.encode(asked))
        (made,) = cloud.api_keys.values()
        result = values.decode(opened["result"], EPHEMERAL[kind].types)
        assert result == asked | {"key": f"napi_{next(iter(cloud.api_keys))}"}
        left = datetime.fromisoformat(made["expires_at"]) - datetime.now(UTC)
        assert (made["key_name"], made["project_id"], left <= timedelta(hours=1)) == ("seed", shop["id"], True)
        core.call("CloseEphemeralResource", type_name=kind, private=opened["private"])
        assert cloud.api_keys == {}
        core.call("CloseEphemeralResource", type_name=kind, private=opened["private"])


def test_whatever_a_file_can_say_can_be_said_here() -> None:
    kinds = {"project": PROJECT, "branch": BRANCH, "compute": "cloister_endpoint", "reader": "cloister_endpoint"}
    elsewhere = {"default_branch", "parent"}
    for kind, noun in KINDS.items():
        names = RESOURCES[kinds.get(kind, f"cloister_{kind}")].schema.types
        assert {name_of(each.path) for each in noun.settings if each.path not in elsewhere} <= set(names)


@pytest.mark.parametrize(
    ("kind", "said", "attribute"),
    [
        (PROJECT, {"name": "a", "ip_allow_addresses": ["nowhere"]}, "ip_allow_addresses"),
        (PROJECT, {"name": "a", "audit_level": "loud"}, "audit_level"),
        (PROJECT, {"name": "a", "defaults_max_cu": 0}, "defaults_max_cu"),
        (BRANCH, {"project_id": "p", "name": "a", "expires_at": "tomorrow"}, "expires_at"),
        (BRANCH, {"project_id": "p", "name": "a", "snapshots": ["sometimes"]}, "snapshots"),
        ("cloister_permission", {"project_id": "p", "email": "ada", "role": "viewer"}, "email"),
        ("cloister_egress", {"project_id": "p", "to": "nowhere"}, "to"),
        ("cloister_organization", {"keys_reencrypt_days": "sometimes"}, "keys_reencrypt_days"),
        ("cloister_organization", {"audit_retention_statements_days": "30"}, "audit_retention_statements_days"),
        ("cloister_member", {"email": "ada@example.com", "role": "owner"}, "role"),
        ("cloister_group", {"issuer": "company", "group": "dba", "role": "owner"}, "role"),
        ("cloister_service_account", {"name": "ci", "role": "admin"}, "role"),
        ("cloister_service_account", {"name": "ci", "grants": {"p": "owner"}}, "grants"),
    ],
)
def test_what_cannot_be_meant_is_said_before_anything_is_asked(
    core: Core, cloud: Cloud, kind: str, said: dict[str, Any], attribute: str
) -> None:
    with pytest.raises(RefusedError) as refused:
        core.plan(kind, None, said)
    assert refused.value.attributes == [attribute]
    assert cloud.asked == []


def test_a_change_names_what_terraform_shows_of_it(cloud: Cloud) -> None:
    """`terraform show -json` has both, so that somebody else computes the same."""
    core = Core(cloud, commit="1b" * 20)
    plan = core.plan("cloister_project", None, {"name": "shop"})
    plan.applied()
    after = {name: value for name, value in plan.planned.items() if value is not UNKNOWN and not name.endswith("_id")}
    shown = json.dumps(
        {"after": after, "before": None, "type": "cloister_project"}, sort_keys=True, separators=(",", ":")
    )
    digest = hashlib.sha256(shown.encode()).hexdigest()
    assert set(cloud.changes) == {f"plan={digest};commit={'1b' * 20}"}
    assert cloud.change == ""


def test_a_commit_is_digits() -> None:
    with pytest.raises(RefusedError) as refused:
        Core(Cloud(), commit="main\r\nX: y")
    assert refused.value.attributes == ["commit"]


def test_data_sources_look_up_by_name(core: Core, shop: dict[str, Any]) -> None:
    def look(kind: str, **said: Any) -> dict[str, Any]:
        from cloister.cli.terraform import values

        config = values.encode(dict.fromkeys(SOURCES[kind].schema.types) | said)
        core.call("ValidateDataResourceConfig", type_name=kind, config=config)
        state = core.call("ReadDataSource", type_name=kind, config=config)["state"]
        found = values.decode(state, SOURCES[kind].schema.types)
        assert found is not None
        return found

    assert look(PROJECT, name="shop")["id"] == shop["id"]
    assert look(BRANCH, project_id=shop["id"])["name"] == "main"
    assert look("cloister_endpoint", project_id=shop["id"], branch_id=shop["default_branch_id"])["host"] == shop["host"]
    with pytest.raises(RefusedError, match="none with name blog"):
        look(PROJECT, name="blog")


def _flat(said: dict[str, Any]) -> dict[str, Any]:
    return {name_of(path): value for path, value in said.items()}


@settings(deadline=None)
@given(OF_PROJECT, OF_PROJECT, COMPUTE, COMPUTE)
def test_from_any_state_an_apply_leads_to_what_was_wanted(
    project: dict[str, Any], then: dict[str, Any], compute: dict[str, Any], later: dict[str, Any]
) -> None:
    core = Core(Cloud())
    state = core.made(PROJECT, name="shop", **_flat(project))
    place = {"project_id": state["id"], "branch_id": state["default_branch_id"], "adopt": True}
    endpoint = core.made("cloister_endpoint", **place, **_flat(compute))
    state = core.changed(PROJECT, state, name="blog", **_flat(then))
    endpoint = core.changed("cloister_endpoint", endpoint, **place, **_flat(later))
    assert core.plan(PROJECT, core.read(PROJECT, state), {"name": "blog"} | _flat(then)).changes == {}
    assert core.plan("cloister_endpoint", core.read("cloister_endpoint", endpoint), place | _flat(later)).changes == {}
