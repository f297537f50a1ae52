"""Files: whatever the bytes, they are understood to the last key, or refused with the place."""

import contextlib
import tomllib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloister.cli.config import parsing
from cloister.cli.config.nouns import KINDS, Node, toml_text
from cloister.cli.config.parsing import Configuration, ConfigurationError, parse
from cloister.cli.config.printing import printed
from tests.cli.config import scene


def refused(*files: tuple[str, str]) -> str:
    with pytest.raises(ConfigurationError) as caught:
        parse([(name, text.encode()) for name, text in files])
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[project.a]\nhistory = 1", "a.toml: project.a.history: there is no such key"),
        ("[project.a]\naudit_levl = 'full'", "project.a.audit_levl: there is no such key; did you mean audit_level?"),
        ("[project.a]\n[project.a]", "a.toml: Cannot declare ('project', 'a') twice (at line 3, column 11)"),
        ("[project.a]\nquota.x = 1", "project.a.quota.x: there is no such key"),
        ("[project.a]\nquota = 1", "project.a.quota: expected a table"),
        ("[project.a]\naudit_level = 'most'", "project.a.audit_level: expected one of off, base, extended, full"),
        ("[project.a]\nblock_public_connections = 1", "expected true or false"),
        ("[project.a]\nhistory_retention_seconds = true", "expected a whole number from 0 to 2592000"),
        ("[project.a]\nhistory_retention_seconds = 1.0", "expected a whole number from 0 to 2592000"),
        ("[project.a]\ndefaults.min_cu = nan", "expected a number of compute units"),
        ("[project.a]\nip_allow.addresses = ['here']", "invalid IP allowlist entry 'here'"),
        ("[project.a]\nip_allow.addresses = '::/0'", "expected a list of at most 1000 addresses"),
        ("[project.a]\ndefaults.pg_settings = {work_mem = 4}", "each in quotes"),
        ("[project.a]\nwhole = ['role']", "project.a.whole: expected a list of egress, permission, branch"),
        ("[project.a]\nid = 7", "project.a.id: expected a text"),
        ("[project.a]\nwas = ''", "project.a.was: expected a text"),
        ("[project.a.egress.'localhost:1']", "a name has letters, digits, - and at least one dot"),
        ("[project.a.permission.ada]\nrole = 'admin'", "project.a.permission.ada: expected an e-mail address"),
        ("[project.a.branch.b]\nid = 'br-x'", "project.a.branch.b.id: there is no such key"),
        ("[project.a.branch.b]\nexpires_at = 2027-01-31T12:00:00", "a time with whole seconds and a zone"),
        ("[project.a.branch.b]\nexpires_at = 0001-01-01T00:00:00+14:00", "a time within the calendar"),
        ("[project.a.branch.b]\nexpires_at = 2027-01-31", "a time with whole seconds and a zone"),
        (
            "[project.a.branch.b]\nsnapshots = ['now']",
            "expected hourly, daily, weekly, monthly, yearly, and after it hour=NUMBER",
        ),
        ("[project.a.branch.b]\nsnapshots = ['daily hour=3 hour=4']", "and after it hour=NUMBER"),
        ("[project.a.branch.b]\nsnapshots = ['daily hour=-3']", "and after it hour=NUMBER"),
        ("[project.a.branch.b]\nsnapshots = [' ']", "and after it hour=NUMBER"),
        ("[project.a.branch.b]\nsnapshots = 'daily'", "a list of at most 16 texts like"),
        ("[project.a.branch.b.compute]\nsuspend_timeout_seconds = 5", "from 60 to 604800, or 0, or -1"),
        ("[project.a.branch.b.reader.2]", "readers are numbered from 1, without a gap"),
        ("[project.a.branch.b.reader.x]", "a number from 1 to 8"),
        (f"[project.a.branch.b.role.{'r' * 64}]", "a name has 1 to 63 bytes"),
        ('[project."\\u0000"]', "no U+0000"),
        ("[project.a]\nname = 'x'\n[project.b]\nname = 'x'", "two of the name 'x'"),
        ("[project.a]\npassword = 'npg_x'", "project.a.password: there is no such key"),
        ("[project.a.branch.b.role.r]\npassword = 'npg_x'", "there is no such key"),
        ("[access_reviews]\nanswer_days = 5", "access_reviews.every_days has to say"),
        ("[keys]\nrotate_days = 0", "keys.rotate_days: expected a whole number from 1 to 2560"),
        ("[member.ada]\nrole = 'admin'", "member.ada: expected an e-mail address"),
        ("[member.'a@b.c']\nrole = 'owner'", "role: expected one of collaborator, viewer, editor, admin"),
        ("[member.'a@b.c']\npassword = 'x'", "there is no such key"),
        ("[group.dba]\nrole = 'admin'", "group.dba: expected ISSUER/GROUP"),
        ("[group.'https://x/y']\nrole = 'admin'", "expected ISSUER/GROUP: the name that the issuer has here"),
        ("[group.'company/']\nrole = 'admin'", "expected ISSUER/GROUP"),
        ("[service_account.CI]", "service_account.CI: expected 1 to 32 small letters"),
        ("[service_account.ci]\nrole = 'admin'", "role: expected one of collaborator, viewer, editor"),
        ("[service_account.ci]\ngrants = {shop = 'owner'}", "projects, each with one of viewer, editor, admin"),
        ("[service_account.ci]\ngrants = {'' = 'admin'}", "grants: expected a table of at most 100 projects"),
        ("[service_account.ci]\ngrants = ['shop']", "grants: expected a table of at most 100 projects"),
        ("[service_account.ci]\nowner = 7", "owner: expected an e-mail address"),
        ("[service_account.ci]\nkey = 'napi_x'", "service_account.ci.key: there is no such key"),
        ("whole = ['role']", "whole: expected a list of group, member, service_account, project"),
        ("project = 1", "a.toml: project: expected a table"),
        ("project.a = 1", "a.toml: project.a: expected a table"),
        ("organization = 1", "organization: the organization's id"),
        ("x = [" + "[" * 5000 + "]" * 5000 + "]", "nested too deeply"),
        ("x = " + "9" * 5000, "a.toml: "),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str, why: str) -> None:
    assert why in refused(("a.toml", f"format = 1\n{text}"))


@pytest.mark.parametrize("text", ["", "format = 2", "format = true", "format = '1'", "format = 1.0"])
def test_a_file_says_how_it_is_meant(text: str) -> None:
    assert "begin with `format = 1`" in refused(("a.toml", text))


def test_a_file_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused() == "there is no .toml file"
    with pytest.raises(ConfigurationError, match=r"a\.toml is not UTF-8"):
        parse([("a.toml", b"format = 1\n# \xff")])
    monkeypatch.setattr(parsing, "FILE_BYTES_MAX", 20)
    assert "more than 20 bytes" in refused(("a.toml", "format = 1\n" + "#" * 20))


def test_addresses_of_people_are_written_as_they_like() -> None:
    (project,) = scene.configuration("[project.a.permission.'Ada@Example.com']\nrole = 'viewer'").wanted.of("project")
    assert project.of("permission")[0].name == "ada@example.com"


def test_several_files_are_one_configuration() -> None:
    both = parse(
        [
            ("a.toml", b'format = 1\norganization = "org-a"\nwhole = ["project"]\n[project.a]'),
            ("b.toml", b"format = 1\nkeys.rotate_days = 9\n[project.b]"),
        ]
    )
    assert both.organization_id == "org-a"
    assert [each.name for each in both.wanted.of("project")] == ["a", "b"]
    assert both.wanted.settings == {"keys.rotate_days": 9}
    assert both.wanted.whole == {"project"}


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        ("[project.a]", "[project.a]", "b.toml: project.a: stands in a.toml too"),
        ("[project.a]", "[project.x]\nname = 'a'", "b.toml: project.x: stands in a.toml too"),
        ("keys.rotate_days = 9", "keys.rotate_days = 9", "b.toml: keys.rotate_days: stands in a.toml too"),
        ("[service_account.ci]", "[service_account.ci]", "b.toml: service_account.ci: stands in a.toml too"),
        ("[member.'A@b.c']", "[member.'a@b.c']", 'b.toml: member."a@b.c": stands in a.toml too'),
        ("organization = 'org-a'", "organization = 'org-b'", "a.toml and b.toml name different organizations"),
    ],
)
def test_a_thing_stands_in_one_file(first: str, second: str, why: str) -> None:
    assert refused(("a.toml", f"format = 1\n{first}"), ("b.toml", f"format = 1\n{second}")) == why


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(scene.organizations())
def test_what_is_printed_is_read_back(wanted: Node) -> None:
    text = printed("", wanted)
    assert printed("", parse([("a.toml", text.encode())]).wanted) == text


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_any_text_is_one_string_of_toml(text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    said = toml_text(text)
    assert tomllib.loads(f"x = {said}") == {"x": text}
    assert said.isprintable()


WORDS = st.sampled_from([*KINDS, *(path for kind in KINDS.values() for path in kind.by_path), "whole", "id", "x", "1"])
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(WORDS, inner, max_size=3)),
    max_leaves=8,
)


def toml(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return toml_text(value.encode("utf-8", "replace").decode())
        case list():
            return f"[{', '.join(map(toml, value))}]"
        case dict():
            return f"{{{', '.join(f'{toml_text(key)} = {toml(each)}' for key, each in value.items())}}}"
        case None:
            return "2027-01-31T12:00:00Z"
        case _:
            return repr(value)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(WORDS, VALUES, max_size=4))
def test_any_document_is_understood_or_refused(document: dict[str, object]) -> None:
    lines = [f"{toml_text(key)} = {toml(value)}" for key, value in document.items()]
    understood_or_refused("\n".join(["format = 1", *lines]).encode())


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_understood_or_refused(content: bytes) -> None:
    understood_or_refused(content)
    understood_or_refused(b"format = 1\n" + content)


def understood_or_refused(content: bytes) -> None:
    with contextlib.suppress(ConfigurationError):
        assert isinstance(parse([("a.toml", content)]), Configuration)
