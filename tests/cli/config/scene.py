"""Configurations made up by Hypothesis, and how one is carried out on the API in memory."""

from typing import Any, cast

from hypothesis import strategies as st

from cloister.cli.api import Api
from cloister.cli.config import planning
from cloister.cli.config.applying import Applier
from cloister.cli.config.nouns import Node, Value
from cloister.cli.config.parsing import Configuration, parse
from cloister.cli.config.planning import Plan
from cloister.cli.config.platform import Platform
from tests.cli.config.cloud import ORG, Cloud


def configuration(text: str) -> Configuration:
    return parse([("shop.toml", f"format = 1\n{text}".encode())])


def planned(cloud: Cloud, wanted: Node) -> Plan:
    return planning.plan(ORG, wanted, Platform(cast("Api", cloud), ORG).read(wanted))


def applied(cloud: Cloud, plan: Plan) -> None:
    assert plan.problems == ()
    applier = Applier(cast("Api", cloud), Platform(cast("Api", cloud), ORG), plan)
    for item in plan.items:
        applier.take(item)


def exported(cloud: Cloud) -> Node:
    return Platform(cast("Api", cloud), ORG).read_all()


NAMES = st.sampled_from(["a", "b", "c d", 'quo"te', "naïve", "x.y"])
BARE = st.sampled_from(["app", "web", "etl"])
SIZES = st.sampled_from([0.25, 0.5, 1.0, 2.0, 4.0])
PAIRS = st.dictionaries(st.sampled_from(["work_mem", "pg.x"]), st.sampled_from(["1MB", "", 'a"b\\']), max_size=2).map(
    lambda pairs: dict(sorted(pairs.items()))
)
SUSPEND = st.sampled_from([-1, 0, 60, 300])
MEMBER_ROLES = st.sampled_from(["admin", "editor", "viewer", "collaborator"])


def some(**values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Value]]:
    return st.fixed_dictionaries({}, optional={path.replace("__", "."): each for path, each in values.items()})


COMPUTE = some(min_cu=SIZES, max_cu=SIZES, suspend_timeout_seconds=SUSPEND, disabled=st.booleans(), pg_settings=PAIRS)
TAGS = st.lists(st.sampled_from(["pii", "prod", "team-a"]), unique=True).map(sorted)
OF_PROJECT = some(
    tags=TAGS,
    history_retention_seconds=st.integers(0, 2_592_000),
    audit_level=st.sampled_from(["off", "base", "full"]),
    block_public_connections=st.booleans(),
    ip_allow__addresses=st.lists(st.sampled_from(["192.0.2.7", "198.51.100.0/24", "::/0"]), unique=True).map(sorted),
    ip_allow__protected_only=st.booleans(),
    quota__logical_size_bytes=st.integers(0, 10**12),
    defaults__max_cu=SIZES,
    defaults__pg_settings=PAIRS,
)
OF_ORGANIZATION = some(
    keys__rotate_days=st.integers(1, 2560),
    keys__reencrypt_days=st.one_of(st.just("never"), st.integers(1, 2560)),
    passkeys__required=st.booleans(),
    consents__required=st.booleans(),
    access_reviews__every_days=st.one_of(st.just("never"), st.integers(7, 366)),
    audit_retention__statements_days=st.one_of(st.just("forever"), st.integers(365, 36_500)),
)


@st.composite
def branches(draw: st.DrawFn) -> tuple[Node, ...]:
    """A tree: the first is the root, and each of the others grows out of one before it."""
    names = draw(st.lists(NAMES, unique=True, min_size=1, max_size=4))
    made: list[Node] = []
    for name in ["main", *(each for each in names if each != "main")]:
        settings = draw(
            some(
                protected=st.booleans(),
                tags=TAGS,
                snapshots=st.sampled_from([[], ["daily hour=3"], ["monthly", "weekly day=7"]]),
            )
        )
        if made:
            settings["parent"] = draw(st.sampled_from([each.name for each in made]))
        roles = draw(st.lists(BARE, unique=True, min_size=1, max_size=3))
        databases = draw(st.dictionaries(BARE, st.sampled_from(roles), max_size=2))
        readers = draw(st.lists(COMPUTE, max_size=2))
        children = {
            "compute": (Node(kind="compute", name="compute", settings=draw(COMPUTE)),),
            "reader": tuple(Node(kind="reader", name=str(n), settings=each) for n, each in enumerate(readers, 1)),
            "role": tuple(Node(kind="role", name=each, settings={"login": True}) for each in roles),
            "database": tuple(
                Node(kind="database", name=each, settings={"owner": owner}) for each, owner in databases.items()
            ),
        }
        whole = draw(st.sets(st.sampled_from(["reader", "role", "database"])))
        if "role" in whole:
            whole.add("database")  # a role that owns what nobody spoke of cannot go
        made.append(
            Node(kind="branch", name=name, settings=settings, children=_spoken(children), whole=frozenset(whole))
        )
    return tuple(made)


@st.composite
def projects(draw: st.DrawFn, name: str) -> Node:
    egress = draw(
        st.dictionaries(st.sampled_from(["db.example.com:5432", "192.0.2.9:5432"]), some(ca_pem=st.just("PEM\n")))
    )
    permissions = draw(
        st.dictionaries(st.sampled_from(["ada@example.com", "bob@example.com"]), st.sampled_from(["viewer", "admin"]))
    )
    children = {
        "branch": draw(branches()),
        "egress": tuple(Node(kind="egress", name=to, settings=said) for to, said in egress.items()),
        "permission": tuple(
            Node(kind="permission", name=who, settings={"role": role}) for who, role in permissions.items()
        ),
    }
    whole = draw(st.sets(st.sampled_from(["egress", "permission"])))
    return Node(
        kind="project",
        name=name,
        settings=draw(OF_PROJECT),
        children=_spoken(children),
        whole=frozenset({"branch", *whole}),
    )


@st.composite
def people(draw: st.DrawFn) -> tuple[Node, ...]:
    """Ada is always among them: she answers for the machines. Bob stays where he has permissions."""
    others = draw(st.dictionaries(st.sampled_from(["eve@example.com"]), MEMBER_ROLES))
    said = {"ada@example.com": "admin", "bob@example.com": draw(MEMBER_ROLES), **others}
    return tuple(Node(kind="member", name=email, settings={"role": role}) for email, role in said.items())


@st.composite
def machines(draw: st.DrawFn, names: list[str]) -> tuple[Node, ...]:
    granted = st.dictionaries(st.sampled_from(names), st.sampled_from(["viewer", "editor", "admin"])) if names else None
    settings = some(
        role=st.sampled_from(["collaborator", "viewer", "editor"]),
        owner=st.just("ada@example.com"),
        disabled=st.booleans(),
        **({} if granted is None else {"grants": granted.map(lambda it: dict(sorted(it.items())))}),
    )
    return tuple(
        Node(kind="service_account", name=each, settings=draw(settings)) for each in draw(st.lists(BARE, unique=True))
    )


@st.composite
def organizations(draw: st.DrawFn) -> Node:
    names = draw(st.lists(NAMES, unique=True, max_size=2))
    groups = draw(st.dictionaries(st.sampled_from(["company/dba", "company//a b", "other/dba"]), MEMBER_ROLES))
    children = {
        "group": tuple(Node(kind="group", name=each, settings={"role": role}) for each, role in groups.items()),
        "member": draw(people()),
        "service_account": draw(machines(names)),
        "project": tuple(draw(projects(name)) for name in names),
    }
    return Node(
        kind="organization",
        name="",
        settings=draw(OF_ORGANIZATION),
        children=_spoken(children),
        whole=frozenset(draw(st.sets(st.sampled_from(["group", "member", "service_account", "project"])))),
    )


def _spoken(children: dict[str, tuple[Node, ...]]) -> dict[str, tuple[Node, ...]]:
    return {kind: found for kind, found in children.items() if found}
