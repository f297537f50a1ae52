"""Which endpoint a client means: never two."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.edge.gateway.errors import RefusedError
from cloister.edge.gateway.target import in_password, target_of
from cloister.protocol.pgwire.messages import Startup

DOMAIN = "db.localhost"


def startup(options: str | None = None) -> Startup:
    parameters = {"user": "ada", "database": "app"}
    return Startup(0, parameters if options is None else {**parameters, "options": options})


@pytest.mark.parametrize(
    ("server_name", "options", "endpoint", "left"),
    [
        ("ep-a.db.localhost", None, "ep-a", None),
        ("EP-A.DB.localhost", None, "ep-a", None),
        ("ep-a.db.localhost.", None, "ep-a", None),
        ("ep-a-pooler.db.localhost", None, "ep-a", None),
        (None, "endpoint=ep-a", "ep-a", None),
        (None, "project=EP-A", "ep-a", None),
        (None, r"end\point=ep-a", "ep-a", None),
        ("other.example", "endpoint=ep-a", "ep-a", None),
        ("db.localhost", "endpoint=ep-a", "ep-a", None),
        ("a.ep-a.db.localhost", None, None, None),
        ("ep-a.db.localhost.evil", None, None, None),
        ("ep-a.xdb.localhost", None, None, None),
        ("ep-a.db.localhost", "endpoint=ep-a-pooler", "ep-a", None),
        ("ep-a.db.localhost", "-c work_mem=1MB endpoint=ep-a", "ep-a", "-c work_mem=1MB"),
        ("ep-a.db.localhost", "neon_endpoint_type:read_only -c a=b\\ c", "ep-a", "-c a=b\\ c"),
        ("ep-a.db.localhost", "-cendpoint=x", "ep-a", "-cendpoint=x"),
        ("ep-a.db.localhost", "", "ep-a", None),
    ],
)
def test_the_endpoint_and_what_is_left(server_name: str | None, options: str | None, endpoint: str, left: str) -> None:
    target = target_of(server_name, DOMAIN, startup(options))
    assert target.endpoint == endpoint
    assert target.parameters.get("options") == left
    assert target.parameters["user"] == "ada"


def test_what_a_connection_string_says_to_libpq_reaches_no_compute() -> None:
    said = {"channel_binding": "require", "sslrootcert": "/ca.pem", "sslkey": "/mine.pem", "application_name": "shop"}
    target = target_of("ep-a-pooler.db.localhost", DOMAIN, Startup(0, {"user": "ada", "database": "app", **said}))
    # Nothing else is taken away: what PostgreSQL does not know, it says itself.
    assert target.parameters == {"user": "ada", "database": "app", "sslkey": "/mine.pem", "application_name": "shop"}


@pytest.mark.parametrize(
    ("server_name", "options", "reason"),
    [
        ("ep-a.db.localhost", "endpoint=ep-b", "inconsistent_endpoint"),
        (None, "endpoint=ep-a project=ep-b", "inconsistent_endpoint"),
        ("ep-a.db.localhost", "endpoint=ep-a endpoint=ep-b", "inconsistent_endpoint"),
        (None, "endpoint=", "malformed_endpoint"),
        (None, "endpoint=ep_a", "malformed_endpoint"),
        (None, "endpoint=../etc", "malformed_endpoint"),
        (None, "endpoint=ep-ä", "malformed_endpoint"),
        (None, "endpoint=-ep", "malformed_endpoint"),
        (None, "endpoint=" + "a" * 64, "malformed_endpoint"),
        ("ep_a.db.localhost", None, "malformed_endpoint"),
        (".db.localhost", None, "malformed_endpoint"),
    ],
)
def test_what_is_refused(server_name: str | None, options: str | None, reason: str) -> None:
    with pytest.raises(RefusedError) as raised:
        target_of(server_name, DOMAIN, startup(options))
    assert raised.value.reason == reason


@pytest.mark.parametrize(
    ("server_name", "options", "points"),
    [
        ("ep-a.db.localhost", "neon_timestamp:2026-03-01T10:00:00Z", ("timestamp:2026-03-01T10:00:00Z",)),
        ("br-a.db.localhost", "neon_lsn:0/15E9A30", ("lsn:0/15E9A30",)),
        ("ep-a.db.localhost", "-c work_mem=1MB NEON_LSN:", ("LSN:",)),
        ("ep-a.db.localhost", r"neon\_lsn:0/1 endpoint=ep-a", ("lsn:0/1",)),
        ("ep-a.db.localhost", r"neon_timestamp:2026-03-01\ 10:00:00Z", ("timestamp:2026-03-01 10:00:00Z",)),
        ("ep-a.db.localhost", "neon_lsn:0/1 neon_lsn:0/1", ("lsn:0/1", "lsn:0/1")),
        ("br-a.db.localhost", None, ()),
    ],
)
def test_a_point_in_the_past_is_kept_as_it_is_written(
    server_name: str, options: str | None, points: tuple[str, ...]
) -> None:
    target = target_of(server_name, DOMAIN, startup(options))
    assert target.points == points
    assert target.is_branch == server_name.startswith("br-")
    assert "neon" not in target.parameters.get("options", "").lower()


@pytest.mark.parametrize(
    ("label", "options", "is_pooled"),
    [
        ("ep-a", None, False),
        ("ep-a-pooler", None, True),
        ("ep-a", "endpoint=ep-a-pooler", True),
        ("ep-a-pooler", "neon_lsn:0/1", False),
        ("ep-a-pooler", "neon_timestamp:2026-03-01T10:00:00Z", False),
        ("br-a-pooler", "endpoint=br-a neon_lsn:0/1", False),
    ],
)
def test_who_is_pooled(label: str, options: str | None, is_pooled: bool) -> None:
    assert target_of(f"{label}.{DOMAIN}", DOMAIN, startup(options)).is_pooled is is_pooled


SPELLINGS = ["ep-a", "EP-A", "ep-a-pooler", "ep-b", "Ep-B-pooler", "ep-c"]


@pytest.mark.parametrize(("sni", "option"), list(itertools.product(SPELLINGS, SPELLINGS)))
def test_two_names_lead_to_one_endpoint_or_nowhere(sni: str, option: str) -> None:
    plain = {name: name.lower().removesuffix("-pooler") for name in SPELLINGS}
    try:
        target = target_of(f"{sni}.{DOMAIN}", DOMAIN, startup(f"endpoint={option}"))
    except RefusedError:
        assert plain[sni] != plain[option]
    else:
        assert plain[sni] == plain[option] == target.endpoint


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("endpoint=ep-a;pw", ("ep-a", "pw")),
        ("endpoint=ep-a$pw", ("ep-a", "pw")),
        ("project=ep-a;p;w$x", ("ep-a", "p;w$x")),
        ("endpoint=ep-a;", ("ep-a", "")),
        ("endpoint=ep-a", None),
        ("pw", None),
    ],
)
def test_the_endpoint_in_a_password(text: str, parts: tuple[str, str] | None) -> None:
    assert in_password(text) == parts


@settings(max_examples=200)
@given(server_name=st.none() | st.text(max_size=30), options=st.text(max_size=40))
def test_garbage_is_read_or_refused(server_name: str | None, options: str) -> None:
    try:
        target = target_of(server_name, DOMAIN, startup(options))
    except RefusedError:
        return
    assert target.endpoint is None or target.endpoint.isascii()
