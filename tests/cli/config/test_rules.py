"""Which plans are refused: each rule of ours by a change that it is there for, and by one beside it that it lets pass."""

import contextlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloister.cli.config import rules
from cloister.cli.config.nouns import PEOPLE, Node
from cloister.cli.config.parsing import ConfigurationError
from cloister.cli.config.planning import Item
from cloister.cli.config.rules import BUILT_IN, judge, parse_rules
from tests.cli.config import scene
from tests.cli.config.cloud import Cloud

THERE = """
whole = ["group", "member", "service_account", "project"]
[keys]
rotate_days = 90
reencrypt_days = 90
[passkeys]
required = true
[consents]
required = true
[access_reviews]
every_days = 90
unanswered_rights_lapse = true
[audit_retention]
statements_days = 800
[project.shop]
whole = ["egress", "permission", "branch"]
audit_level = "extended"
tags = ["prod"]
history_retention_seconds = 86400
block_public_connections = true
require_channel_binding = true
ip_allow.addresses = ["192.0.2.0/24"]
ip_allow.protected_only = false
[project.shop.egress."db.example.com:5432"]
[project.shop.permission."ada@example.com"]
role = "editor"
[project.shop.branch.main]
protected = true
tags = ["pii", "team-a"]
snapshots = ["daily hour=3 retention_seconds=604800"]
whole = ["compute", "reader", "role", "database"]
[project.shop.branch.main.compute]
disabled = false
[project.shop.branch.main.reader.1]
[project.shop.branch.main.role.app]
[project.shop.branch.main.database.app]
owner = "app"
[project.shop.branch.dev]
parent = "main"
expires_at = "never"
[group."company/dba"]
role = "viewer"
[member."ada@example.com"]
role = "admin"
[member."bob@example.com"]
role = "collaborator"
[service_account.ci]
role = "collaborator"
owner = "ada@example.com"
grants = { shop = "viewer" }
disabled = true
[service_account.web]
disabled = false
"""


def items(text: str) -> list[Item]:
    cloud = Cloud()
    scene.applied(cloud, scene.planned(cloud, scene.configuration(THERE).wanted))
    plan = scene.planned(cloud, scene.configuration(text).wanted)
    assert plan.problems == ()
    return list(plan.items)


def changed(old: str, new: str) -> str:
    assert old in THERE
    return THERE.replace(old, new)


COMPUTE = "[project.shop.branch.main.compute]\ndisabled = false\n"
READER = "[project.shop.branch.main.reader.1]\n"
DATABASE = '[project.shop.branch.main.database.app]\nowner = "app"\n'
ADDRESSES = '["192.0.2.0/24"]'
DEV = '[project.shop.branch.dev]\nparent = "main"\nexpires_at = "never"\n'
PASSES = "passes"
BOB = '[member."bob@example.com"]\nrole = "collaborator"\n'
DBA = '[group."company/dba"]\nrole = "viewer"\n'
CI = '[service_account.ci]\nrole = "collaborator"\n'
WEB = "[service_account.web]\ndisabled = false\n"


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        (THERE, 'whole = ["project"]', "destroy"),
        (DEV, "", "destroy"),
        (COMPUTE, "", "destroy"),
        (READER, "", "destroy"),
        (DATABASE, "", "destroy"),
        ("[project.shop.branch.main.role.app]\n" + DATABASE, "", "destroy"),
        ('[project.shop.egress."db.example.com:5432"]\n', "", PASSES),
        ('expires_at = "never"', "expires_at = 2027-01-31T12:00:00Z", "expire"),
        (DEV, DEV + '[project.shop.branch.ci]\nparent = "main"\nexpires_at = 2027-01-31T12:00:00Z\n', PASSES),
        ("protected = true", "protected = false", "unprotect"),
        (ADDRESSES, '["0.0.0.0/0"]', "open-to-all"),
        (ADDRESSES, '["192.0.2.0/24", "::/0"]', "open-to-all"),
        (ADDRESSES, '["0.0.0.0/1"]', "open-to-all"),
        (ADDRESSES, '["0.0.0.1-255.255.255.254"]', "open-to-all"),
        (ADDRESSES, '["0.0.0.0/2", "64.0.0.0/2"]', "open-to-all"),
        (ADDRESSES, '["0.0.0.0/2", "0.0.0.0/2", "1.0.0.0/8"]', PASSES),
        (ADDRESSES, '["::ffff:0:0/96"]', "open-to-all"),
        (ADDRESSES, '["198.51.100.0/24"]', PASSES),
        (DEV, DEV + '[project.new]\nip_allow.addresses = ["0.0.0.0/0"]\n', "open-to-all"),
        (ADDRESSES, "[]", "no-allow-list"),
        ("ip_allow.protected_only = false", "ip_allow.protected_only = true", "narrow-allow-list"),
        (
            f"ip_allow.addresses = {ADDRESSES}\nip_allow.protected_only = false",
            'ip_allow.addresses = ["192.0.2.7"]\nip_allow.protected_only = true',
            "narrow-allow-list",
        ),
        ("block_public_connections = true", "block_public_connections = false", "unblock"),
        ("require_channel_binding = true", "require_channel_binding = false", "no-channel-binding"),
        ('audit_level = "extended"', 'audit_level = "base"', "lower-audit"),
        ('audit_level = "extended"', 'audit_level = "full"', PASSES),
        ('tags = ["prod"]', "tags = []", "lift-tags"),
        ('tags = ["prod"]', 'tags = ["team-a", "pii", "prod"]', PASSES),
        ('tags = ["pii", "team-a"]', 'tags = ["team-a"]', "lift-tags"),
        ('tags = ["pii", "team-a"]', 'tags = ["pii"]', PASSES),
        (DEV, DEV + '[project.shop.branch.masked]\nparent = "main"\ntags = []\n', "lift-tags"),
        ("history_retention_seconds = 86400", "history_retention_seconds = 86399", "shorten-history"),
        ("history_retention_seconds = 86400", "history_retention_seconds = 86401", PASSES),
        ("hour=3 retention_seconds=604800", "hour=3 retention_seconds=3600", "fewer-snapshots"),
        ('snapshots = ["daily hour=3 retention_seconds=604800"]', "snapshots = []", "fewer-snapshots"),
        ("daily hour=3 retention_seconds=604800", "weekly retention_seconds=604800", "fewer-snapshots"),
        ('snapshots = ["', 'snapshots = ["weekly", "', PASSES),
        ("hour=3 retention_seconds=604800", "hour=4 retention_seconds=604801", PASSES),
        ("hour=3 retention_seconds=604800", "hour=3", PASSES),
        ("statements_days = 800", "statements_days = 799", "shorten-record"),
        ("statements_days = 800", 'statements_days = "forever"', PASSES),
        ("statements_days = 800", "recordings_days = 800", "shorten-record"),
        ("[project.shop.egress.", '[project.shop.egress."192.0.2.9:1"]\n[project.shop.egress.', "egress"),
        ('.com:5432"]\n', '.com:5432"]\nca_pem = "PEM"\n', "egress"),
        ('role = "editor"', 'role = "admin"', "grant-admin"),
        ('role = "editor"', 'role = "viewer"', PASSES),
        ("[project.shop.permission.", '[project.shop.permission."b@x.y"]\nrole = "admin"\n[project.shop.permission.', "grant-admin"),
        ("[passkeys]\nrequired = true", "[passkeys]\nrequired = false", "no-passkeys"),
        ("[consents]\nrequired = true", "[consents]\nrequired = false", "no-consents"),
        ("rotate_days = 90", "rotate_days = 91", "older-keys"),
        ("rotate_days = 90", "rotate_days = 89", PASSES),
        ("reencrypt_days = 90", 'reencrypt_days = "never"', "older-keys"),
        ("every_days = 90", "every_days = 91", "fewer-reviews"),
        ("every_days = 90\nunanswered_rights_lapse = true", 'every_days = "never"', "fewer-reviews"),
        ("unanswered_rights_lapse = true", "unanswered_rights_lapse = false", "fewer-reviews"),
        (COMPUTE, COMPUTE.replace("false", "true"), "disable"),
        (WEB, WEB.replace("false", "true"), "disable"),
        (BOB, "", "remove-account"),
        (BOB, BOB.replace("collaborator", "admin"), "grant-admin"),
        (BOB, BOB.replace("collaborator", "editor"), PASSES),
        (BOB, BOB + '[member."eve@example.com"]\nrole = "viewer"\n', PASSES),
        (BOB, BOB + '[member."eve@example.com"]\nrole = "admin"\n', "grant-admin"),
        (DBA, "", "remove-account"),
        (DBA, DBA.replace("viewer", "admin"), "grant-admin"),
        (DBA, DBA.replace("viewer", "editor"), PASSES),
        (DBA, DBA + DBA.replace("dba", "ops"), PASSES),
        (WEB, "", "remove-account"),
        (WEB, WEB + "[service_account.etl]\n", "machine"),
        (CI, CI.replace("collaborator", "viewer"), "machine"),
        ("disabled = true", "disabled = false", "machine"),
        ('grants = { shop = "viewer" }', 'grants = { shop = "editor" }', "machine"),
        ('grants = { shop = "viewer" }', "grants = {}", PASSES),
        ('owner = "ada@example.com"', 'owner = "bob@example.com"', PASSES),
    ],
)  # fmt: skip
def test_a_rule_refuses_what_it_is_there_for(old: str, new: str, rule: str) -> None:
    steps = items(changed(old, new))
    assert steps
    assert {each.rule.id for each in judge(steps, BUILT_IN, [])} == {rule} - {PASSES}
    assert judge(steps, BUILT_IN, {rule} - {PASSES}) == []


def test_a_machine_that_governs_a_project_is_two_things() -> None:
    steps = items(changed('grants = { shop = "viewer" }', 'grants = { shop = "admin" }'))
    assert {each.rule.id for each in judge(steps, BUILT_IN, [])} == {"grant-admin", "machine"}


@pytest.mark.parametrize("before", ["[]", '["0.0.0.0/0"]'])
def test_a_list_that_kept_nobody_out_may_be_narrowed(before: str) -> None:
    cloud = Cloud()
    scene.applied(
        cloud, scene.planned(cloud, scene.configuration(f"[project.shop]\nip_allow.addresses = {before}").wanted)
    )
    after = f"[project.shop]\nip_allow.addresses = {ADDRESSES}\nip_allow.protected_only = true"
    plan = scene.planned(cloud, scene.configuration(after).wanted)
    assert len(plan.items[0].changes) == 2
    assert judge(plan.items, BUILT_IN, []) == []


def test_every_rule_is_tried() -> None:
    tried = {arguments[2] for arguments in test_a_rule_refuses_what_it_is_there_for.pytestmark[0].args[1]}  # type: ignore[attr-defined]
    assert tried == {rule.id for rule in BUILT_IN} | {PASSES}


def test_what_a_plan_makes_itself_it_may_destroy() -> None:
    """A child is made with what its parent has; to have less in it destroys nobody's data."""
    child = (
        DEV
        + '[project.shop.branch.ci]\nparent = "main"\nwhole = ["role", "database"]\n[project.shop.branch.ci.role.app]\n'
    )
    steps = items(changed(DEV, child))
    assert [each.action for each in steps] == ["create", "destroy"]
    assert judge(steps, BUILT_IN, []) == []


def test_an_unknown_rule_is_not_allowed() -> None:
    with pytest.raises(ConfigurationError, match="there is no rule destory: there are destroy, expire"):
        judge([], BUILT_IN, ["destory"])


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(scene.organizations())
def test_nothing_is_destroyed_but_by_its_name(wanted: Node) -> None:
    """Whatever was there and whatever is wanted: without `--allow destroy` no step is let pass that destroys data."""
    cloud = Cloud()
    scene.applied(cloud, scene.planned(cloud, scene.configuration(THERE).wanted))
    plan = scene.planned(cloud, wanted)
    allowed = [rule.id for rule in BUILT_IN if rule.id != "destroy"]
    refused = [each.item for each in judge(plan.items, BUILT_IN, allowed)]
    harmless = ("egress", "permission", *PEOPLE)  # people are another rule's
    assert refused == [
        item for item in plan.items if item.action == "destroy" and item.kind not in harmless and not item.is_fresh
    ]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)).map(sorted), max_size=6))
def test_addresses_are_counted_once(spans: list[list[int]]) -> None:
    expected = {number for first, last in spans for number in range(first, last + 1)}
    assert rules._covered([(first, last) for first, last in spans]) == len(expected)


# ── a team's own ──


def own(text: str, wanted: str) -> set[str]:
    return {each.rule.id for each in judge(items(wanted), parse_rules("rules.toml", text.encode()), [])}


BIG = changed(COMPUTE, COMPUTE + "max_cu = 8\npg_settings = {work_mem = '1GB'}\n")


@pytest.mark.parametrize(
    ("pattern", "wanted", "does_refuse"),
    [
        ('kind = "compute"\nsetting = "max_cu"\nabove = 4', BIG, True),
        ('kind = "compute"\nsetting = "max_cu"\nabove = 8', BIG, False),
        ('setting = "max_cu"\nbelow = 9', BIG, True),
        ('kind = ["reader", "branch"]\nsetting = "max_cu"', BIG, False),
        ('setting = "pg_settings"\nvalue = "work_mem=*GB"', BIG, True),
        ('address = "project.shop.*"', BIG, True),
        ('address = "project.prod-*"', BIG, False),
        ('action = "destroy"', changed(DEV, ""), True),
        ('action = ["create", "change"]', changed(DEV, ""), False),
        ('setting = "ip_allow.addresses"\nvalue = "10.*"', changed(ADDRESSES, '["10.0.0.0/8"]'), True),
        ('setting = "disabled"\nvalue = "true"', changed(COMPUTE, COMPUTE.replace("false", "true")), True),
        ('setting = "disabled"\nabove = 0', changed(COMPUTE, COMPUTE.replace("false", "true")), False),
    ],
)
def test_a_rule_of_ones_own(pattern: str, wanted: str, does_refuse: bool) -> None:
    text = f'[[forbid]]\nid = "ours"\nreason = "ask the platform team"\n{pattern}\n'
    assert own(text, wanted) == ({"ours"} if does_refuse else set())


def test_a_rule_about_a_thing_holds_whatever_a_file_calls_it() -> None:
    """Another key, or another name in the same plan, is no way around it."""
    cloud = Cloud()
    scene.applied(cloud, scene.planned(cloud, scene.configuration(THERE).wanted))
    (project_id,) = cloud.projects
    rule = parse_rules("r", b'[[forbid]]\nid = "ours"\nreason = "no"\naddress = "project.shop*"')
    for text in ('[project."shop 2"]', f'[project.x]\nid = "{project_id}"\nname = "shop"', '[project.x]\nwas = "shop"'):
        wanted = scene.configuration(f'{text}\naudit_level = "full"').wanted
        assert judge(scene.planned(cloud, wanted).items, rule, [])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "has [[forbid]] tables, and nothing else"),
        ("forbid = 1", "has [[forbid]] tables"),
        ("x = 1\n[[forbid]]", "has [[forbid]] tables"),
        ("[[forbid]]\nreason = 'r'", "forbid 1: it has an id"),
        ("[[forbid]]\nid = 'A'\nreason = 'r'", "forbid 1: it has an id"),
        ("[[forbid]]\nid = 'a'", "and a reason"),
        ("[[forbid]]\nid = 'a'\nreason = 'r'\nkinds = 'x'", "forbid 1: kinds: there is above"),
        ("[[forbid]]\nid = 'a'\nreason = 'r'\nkind = 'x'", "kind is one or several of organization, project"),
        ("[[forbid]]\nid = 'a'\nreason = 'r'\naction = []", "action is one or several of create, change, destroy"),
        ("[[forbid]]\nid = 'a'\nreason = 'r'\nabove = true", "above and below are numbers"),
        ("[[forbid]]\nid = 'a'\nreason = 'r'\nvalue = 3", "are patterns with * and ?"),
        ("[[forbid]]\nid = 'destroy'\nreason = 'r'", "there are two rules 'destroy'"),
        ("[[forbid]", "r.toml: "),
    ],
)
def test_a_rule_that_is_none_is_refused(text: str, why: str) -> None:
    """A rule that cannot be read would be one that nobody follows."""
    with pytest.raises(ConfigurationError) as caught:
        parse_rules("r.toml", text.encode())
    assert why in str(caught.value)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=100), st.sampled_from([b"", b"[[forbid]]\nid='a'\nreason='r'\n"]))
def test_any_bytes_are_rules_or_refused(content: bytes, before: bytes) -> None:
    with contextlib.suppress(ConfigurationError):
        assert all(rule.id and rule.reason for rule in parse_rules("r.toml", before + content))
