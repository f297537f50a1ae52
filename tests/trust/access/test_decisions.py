"""What becomes of a decision when the rules are missing, wrong, or added to. The whole table: test_permissions.py."""

import os
import re
from pathlib import Path
from uuid import UUID

import pytest

from cloister.base.errors import CloisterError, ForbiddenError, NotFoundError
from cloister.trust.access.decisions import SHIPPED, Decider
from cloister.trust.access.permissions import OF_AN_ORGANIZATION, OF_ONESELF, OF_THE_PLATFORM, Permission
from cloister.trust.access.principals import Grant, Holder, Principal

HERE, ELSEWHERE = "org-calm-forest-12345678", "org-wild-river-12345678"
PROJECT = "calm-forest-12345678"


def principal(memberships: dict[str, str], **more: object) -> Principal:
    return Principal(UUID(int=1), 1, "ada@example.com", "Ada", memberships, **more)  # type: ignore[arg-type]


def outcome(who: Principal, permission: Permission, project_id: str | None) -> str:
    try:
        DECIDER.authorize(who, permission, org_id=HERE, project_id=project_id)
    except CloisterError as error:
        return type(error).__name__
    return "ok"


DECIDER = Decider()


def test_a_grant_of_another_organizations_time_is_worth_nothing() -> None:
    """A project that moved: the grant was read before, or the key is of the organization that it left."""
    for holder in Holder:
        stale = principal({}, grants={PROJECT: Grant(ELSEWHERE, "admin")}, holder=holder)
        assert outcome(stale, Permission.PROJECT_READ, PROJECT) == "NotFoundError"


def test_a_grant_with_an_unknown_role_is_none() -> None:
    stale = principal({HERE: "collaborator"}, grants={PROJECT: Grant(HERE, "owner")})
    assert outcome(stale, Permission.PROJECT_READ, PROJECT) == "NotFoundError"


def test_the_larger_of_two_roles_counts() -> None:
    both = principal({HERE: "admin"}, grants={PROJECT: Grant(HERE, "viewer")})
    assert outcome(both, Permission.PROJECT_DELETE, PROJECT) == "ok"


def test_a_refusal_says_to_a_key_that_it_is_one() -> None:
    for holder, sentence in (
        (Holder.PERSON, "permission denied"),
        (Holder.ORGANIZATION, "not allowed for organization API keys"),
        (Holder.PROJECT, "not allowed for project-scoped API keys"),
    ):
        with pytest.raises(ForbiddenError) as refused:
            DECIDER.authorize(principal({HERE: "viewer"}, holder=holder), Permission.MEMBER_MANAGE, org_id=HERE)
        assert refused.value.public == sentence


def test_ids_are_never_read_as_policy_text() -> None:
    nasty = 'x", principal == principal || "'
    assert outcome(principal({nasty: "admin"}), Permission.PROJECT_READ, nasty) == "NotFoundError"
    DECIDER.authorize(principal({nasty: "admin"}), Permission.PROJECT_DELETE, org_id=nasty, project_id="a\nb")


def test_every_permission_is_an_action_of_the_schema_and_none_is_left_over() -> None:
    schema = (SHIPPED / "schema.cedarschema").read_text()
    assert set(re.findall(r'"([a-z_]+:[a-z_]+)"', schema)) == {permission.value for permission in Permission}


@pytest.mark.parametrize(
    ("resource", "permissions"),
    [
        ("[Account, Key]", OF_ONESELF),
        ("Platform", OF_THE_PLATFORM),
        ("Organization", OF_AN_ORGANIZATION),
        ("[Organization, Project]", set(Permission) - OF_ONESELF - OF_THE_PLATFORM - OF_AN_ORGANIZATION),
    ],
)
def test_a_permission_is_asked_of_what_the_schema_says(resource: str, permissions: set[Permission]) -> None:
    schema = (SHIPPED / "schema.cedarschema").read_text()
    stated = set()
    for names, of in re.findall(r"action\s+((?:\"[a-z_:]+\",?\s*)+)[^;]*?resource: (.*?), context", schema):
        if of == resource:
            stated |= set(re.findall(r'"([^"]+)"', names))
    assert stated == {permission.value for permission in permissions}


def shipped_copy(directory: Path) -> Path:
    for entry in SHIPPED.iterdir():
        (directory / entry.name).write_text(entry.read_text())
    return directory


BREAKAGES = {
    "no directory": lambda directory: directory / "nothing",
    "no policy": lambda directory: [path.unlink() for path in directory.glob("*.cedar")] and directory,
    "no schema": lambda directory: (directory / "schema.cedarschema").unlink() or directory,
    "no syntax": lambda directory: (directory / "api_keys.cedar").write_text("permit (") and directory,
    "not in the schema": lambda directory: (
        (directory / "more.cedar").write_text('permit (principal, action == Action::"project:steal", resource);')
        and directory
    ),
    "an attribute that may be absent": lambda directory: (
        (directory / "more.cedar").write_text("forbid (principal, action, resource) when { resource.isFrozen };")
        and directory
    ),
    "not text": lambda directory: (directory / "api_keys.cedar").write_bytes(b"\xff\xfe") and directory,
    "a directory in place of a file": lambda directory: (directory / "more.cedar").mkdir() or directory,
}


@pytest.mark.parametrize("breakage", BREAKAGES.values(), ids=BREAKAGES)
def test_rules_that_cannot_be_used_deny_everything(tmp_path: Path, breakage) -> None:  # type: ignore[no-untyped-def]
    decider = Decider(breakage(shipped_copy(tmp_path)))
    assert decider.problem
    for permission in Permission:
        with pytest.raises((ForbiddenError, NotFoundError)):
            decider.authorize(principal({HERE: "admin"}), permission, org_id=HERE, project_id=PROJECT)


def test_a_copy_of_the_rules_decides_like_the_rules(tmp_path: Path) -> None:
    decider = Decider(shipped_copy(tmp_path))
    assert decider.problem == ""
    decider.authorize(principal({HERE: "admin"}), Permission.PROJECT_DELETE, org_id=HERE)


def test_a_rule_that_fails_while_it_is_evaluated_denies(tmp_path: Path) -> None:
    """Cedar itself would pass over it, and the permit beside it would stand."""
    directory = shipped_copy(tmp_path)
    (directory / "more.cedar").write_text(
        "forbid (principal, action, resource is Project) when { 9223372036854775807 + 1 == 0 };"
    )
    decider = Decider(directory)
    assert decider.problem == "", "it is well-formed"
    with pytest.raises(NotFoundError):
        decider.authorize(principal({HERE: "admin"}), Permission.PROJECT_READ, org_id=HERE, project_id=PROJECT)


PERMIT_ONE: str = f"""
@id("the-branches-of-pull-requests")
permit (
    principal == Account::"{UUID(int=1)}",
    action == Action::"branch:create_from_protected",
    resource == Project::"{PROJECT}"
);"""
MEMBER = principal({HERE: "editor"})


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "policies").mkdir(mode=0o755)
    (tmp_path / "policies").chmod(0o755)
    return tmp_path / "policies"


def write(own: Path, text: str) -> Path:
    (own / "ours.cedar").write_text(text)
    (own / "ours.cedar").chmod(0o644)
    return own / "ours.cedar"


def test_an_operators_rule_permits_one_account_one_thing_in_one_project(own: Path) -> None:
    write(own, PERMIT_ONE)
    decider, asked = Decider(own=own), Permission.BRANCH_CREATE_FROM_PROTECTED
    assert decider.problem == ""
    decider.authorize(MEMBER, asked, org_id=HERE, project_id=PROJECT)
    for who, permission, project in (
        (MEMBER, asked, "another-12345678"),
        (MEMBER, Permission.BRANCH_UNPROTECT, PROJECT),
        (Principal(UUID(int=3), 3, "b@example.com", "B", {HERE: "editor"}), asked, PROJECT),
    ):
        with pytest.raises(ForbiddenError):
            decider.authorize(who, permission, org_id=HERE, project_id=project)


def test_an_operators_rule_forbids_it_to_everybody(own: Path) -> None:
    write(own, 'forbid (principal, action == Action::"branch:unprotect", resource);')
    with pytest.raises(ForbiddenError):
        Decider(own=own).authorize(principal({HERE: "admin"}), Permission.BRANCH_UNPROTECT, org_id=HERE)


def test_an_operators_rule_goes_by_tags(own: Path) -> None:
    write(
        own,
        """forbid (principal, action == Action::"branch:create", resource) when { resource.tags.contains("prod") };""",
    )
    decider, editor = Decider(own=own), principal({HERE: "editor"})
    for project_id in (PROJECT, None):
        for tags in ((), ("pii", "production")):
            decider.authorize(editor, Permission.BRANCH_CREATE, org_id=HERE, project_id=project_id, tags=tags)
        with pytest.raises(ForbiddenError):
            decider.authorize(editor, Permission.BRANCH_CREATE, org_id=HERE, project_id=project_id, tags=["x", "prod"])


def test_no_directory_and_other_files_are_no_rules(own: Path) -> None:
    (own / "README").write_text("not a rule")
    for decider in (Decider(own=own), Decider(own=own / "nothing")):
        decider.authorize(principal({HERE: "admin"}), Permission.PROJECT_DELETE, org_id=HERE)


SPOILED = {
    "no syntax": lambda own: write(own, "permit ("),
    "not in the schema": lambda own: write(own, 'permit (principal, action == Action::"project:steal", resource);'),
    "tags as if everything had some": lambda own: write(
        own, 'forbid (principal, action == Action::"api_key:create", resource) when { resource.tags.contains("pii") };'
    ),
    "writable by others": lambda own: write(own, PERMIT_ONE).chmod(0o666),
    "writable by a group": lambda own: write(own, PERMIT_ONE).chmod(0o664),
    "in a directory that others may write to": lambda own: write(own, PERMIT_ONE) and own.chmod(0o777),
    "a link": lambda own: write(own, PERMIT_ONE).rename(own / "text") and (own / "a.cedar").symlink_to(own / "text"),
}
if os.geteuid() == 0:
    SPOILED["somebody else's"] = lambda own: os.chown(write(own, PERMIT_ONE), 65534, 65534)


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
def test_operators_rules_that_cannot_be_trusted_deny_everything(own: Path, spoil) -> None:  # type: ignore[no-untyped-def]
    spoil(own)
    decider = Decider(own=own)
    assert decider.problem
    with pytest.raises(NotFoundError):
        decider.authorize(principal({HERE: "admin"}), Permission.PROJECT_READ, org_id=HERE, project_id=PROJECT)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_rules_that_may_not_be_read_deny(tmp_path: Path) -> None:
    directory = shipped_copy(tmp_path)
    (directory / "organizations.cedar").chmod(0)
    assert Decider(directory).problem
