"""Threat: bytes that no honest client sends. Each gets a clear refusal; none gets an error of ours."""

import json
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloister.edge.api.call import NoBody
from cloister.edge.api.routes import ROUTES
from tests.attacks.test_http_confused_deputy import BODIES, path_of
from tests.edge.api.world import BRANCH, ENDPOINT, PROJECT, SNAPSHOT, World

JSON = {"content-type": "application/json"}
WITH_BODY = [route for route in ROUTES if route.body is not NoBody]
P = f"/projects/{PROJECT}"
B = f"{P}/branches/{BRANCH}"


async def post(body: bytes, path: str = "/projects", headers: dict[str, str] | None = None) -> tuple[int, str]:
    async with World().client() as client:
        answer = await client.post(path, content=body, headers=JSON if headers is None else headers)
    assert set(answer.json()) >= {"request_id", "code", "message"} or answer.status_code < 300
    return answer.status_code, answer.json().get("message", "")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "the body is empty"),
        (b"{", "truncated"),
        (b'{"project": {"name": "x",}}', "byte 25"),
        (b'{"project": nonsense}', "byte 16"),
        (b'{"project": {}} {}', "trailing characters"),
        (b"[]", "Expected `object`, got `array`"),
        (b"null", "Expected `object`, got `null`"),
        (b"{}", "missing required field `project`"),
        (b'{"project": {"pg_version": "18"}}', "Expected `int | null`, got `str` - at `project.pg_version`"),
        (b'{"project": {"pg_version": true}}', "at `project.pg_version`"),
        (b'{"project": {"pg_version": 1.5}}', "at `project.pg_version`"),
        (b'{"project": {"name": 5}}', "at `project.name`"),
        (b'{"project": {"name": ""}}', "at `project.name`"),
        (b'{"project": {"name": null, "branch": []}}', "at `project.branch`"),
        (b'{"project": {"history_retention_seconds": -1}}', "at `project.history_retention_seconds`"),
        (b'{"project": {"history_retention_seconds": 2592001}}', "at `project.history_retention_seconds`"),
        (b'{"project": {"settings": {"quota": {"logical_size_bytes": ' + b"9" * 30 + b"}}}}", "logical_size_bytes"),
        (b'{"project": {"autoscaling_limit_min_cu": 1e400}}', "out of range"),
        (b'{"project": {"autoscaling_limit_min_cu": NaN}}', "malformed"),
        (b'{"project": {"autoscaling_limit_min_cu": 2, "autoscaling_limit_max_cu": 1}}', "min <= max"),
        (b'{"project": {"default_endpoint_settings": {"suspend_timeout_seconds": 5}}}', "suspend_timeout_seconds must"),
        (b'{"project": {"default_endpoint_settings": {"pg_settings": {"a": 1}}}}', "pg_settings"),
        (b'{"project": {"name": "a\\u0000b"}}', "U+0000"),
        (b'{"project": {"name": "\\ud800"}}', ""),
        (b'{"project": {"name": "\\udc00"}}', ""),
        (b'{"project": {"name": "\xff\xfe"}}', "not UTF-8"),
        (b'{"project": {"name": "a\nb"}}', "malformed"),
        (b"\xef\xbb\xbf{}", "byte 0"),
        (b'{"project":' + b'{"a":' * 100_000, "nested too deeply"),
        (b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b',"project":{}}', "nested too deeply"),
        (b'{"project": {"name": "' + "😀".encode() * 65 + b'"}}', "256 bytes"),
        (b'{"project": {"branch": {"role_name": "' + b"r" * 64 + b'"}}}', "invalid role name"),
        (b'{"project": {"branch": {"role_name": ""}}}', "invalid role name"),
        (b'{"project": {"branch": {"database_name": "' + "é".encode() * 32 + b'"}}}', "invalid database name"),
        (b'{"project": {"org_id": "../../etc"}}', "invalid organization id"),
        (b'{"project": {"settings": {"allowed_ips": {"ips": ["300.1.1.1"]}}}}', "300.1.1.1"),
        (b'{"project": {"settings": {"allowed_ips": {"ips": ["0.0.0.0/0 "], "ips": ["nonsense"]}}}}', "nonsense"),
        (b'{"project": {"settings": {"allowed_ips": {"ips": [""]}}}}', "allowed_ips"),
        (
            b'{"project": {"settings": {"allowed_ips": {"ips": [' + b",".join([b'"1.1.1.1"'] * 1001) + b"]}}}}",
            "allowed_ips",
        ),
    ],
)
async def test_a_body_that_cannot_be_is_a_bad_request_that_says_where(body: bytes, says: str) -> None:
    status, message = await post(body)
    assert status == 400, message
    assert says in message


@pytest.mark.parametrize(
    "body",
    [
        b'{"project": {"unknown": {"deep": [1, {"x": null}]}}}',
        b'{"project": {"name": "\\\\u0000 is only text"}}',
        '{"project": {"name": "naïve 😀 / \\" \'; DROP TABLE project; --"}}'.encode(),
        b'{"project": {"name": "\\ud83d\\ude00"}}',
        b'{"project": {"name": "a", "name": "b"}}',
        b' \n\t{"project": {}} ',
    ],
)
async def test_an_odd_body_that_can_be_is_taken(body: bytes) -> None:
    assert (await post(body))[0] == 201


async def test_a_body_of_ten_megabytes_is_too_large_declared_or_not() -> None:
    async def chunks() -> Any:
        for _ in range(160):
            yield b" " * 65536

    async with World().client() as client:
        declared = await client.post("/projects", content=b" " * (10 * 1024 * 1024), headers=JSON)
        streamed = await client.post("/projects", content=chunks(), headers=JSON)
    for answer in (declared, streamed):
        assert answer.status_code == 413
        assert "larger than 1048576 bytes" in answer.json()["message"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "multipart/form-data; boundary=x"}, 415),
        ({}, 415),
        ({"content-type": "application/json", "content-encoding": "gzip"}, 415),
        ({"content-type": "Application/JSON; charset=utf-8"}, 201),
    ],
)
async def test_only_json_is_read(headers: dict[str, str], status: int) -> None:
    """A page of another site can send the first three without asking; it cannot send JSON."""
    assert (await post(b'{"project": {}}', headers=headers))[0] == status


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/projects/UPPER-case-00000001", 400),
        ("/projects/..%2f..%2fetc%2fpasswd", 400),
        ("/projects/" + "a" * 61, 400),
        ("/projects/calm%00forest", 400),
        ("/projects/calm-forest-00000001%0a", 400),
        ("/projects/somebody-elses-neon-project-123", 404),
        (f"{P}/branches/main", 404),
        (f"{P}/branches/br-other-shape", 404),
        (f"{P}/endpoints/{BRANCH}", 404),
        (f"{P}/operations/11111111-2222-3333-4444-55555555555", 404),
        (f"{B}/roles/%00", 400),
        (f"{B}/roles/" + "r" * 64, 400),
        (f"{B}/roles/" + quote("é" * 32), 400),
        (f"{B}/roles/" + quote("é" * 31), 404),
        (f"{B}/roles/" + quote("'; DROP ROLE x; --"), 404),
        (f"{B}/roles/" + quote("😀"), 404),
        (f"{B}/roles/%ff", 404),
        (f"{B}/roles/%ed%a0%80", 404),
        (f"{B}/roles/a/b", 404),
        ("/projects?limit=0", 400),
        ("/projects?limit=401", 400),
        ("/projects?limit=-1", 400),
        ("/projects?limit=1e9", 400),
        ("/projects?limit=" + "9" * 400, 400),
        ("/projects?limit=ten", 400),
        ("/projects?cursor=%00", 400),
        ("/projects?cursor='", 400),
        ("/projects?search=" + "s" * 257, 400),
        ("/projects?search=%00", 400),
        ("/projects?recoverable=maybe", 400),
        ("/projects?recoverable=True", 200),
        ("/projects?" + "a=b&" * 3000, 400),
        ("/projects?limit=1&limit=2", 200),
        ("/projects?org_id=", 200),
        ("/cloister/audit/events?cursor=-1", 400),
        ("/cloister/audit/events?cursor=" + "9" * 19, 400),
        ("/organizations/x", 404),
    ],
)
async def test_a_strange_address_is_refused_or_names_nothing(path: str, status: int) -> None:
    async with World().client() as client:
        answer = await client.get(path)
    assert answer.status_code == status, answer.text
    assert status == 200 or set(answer.json()) == {"request_id", "code", "message"}


@pytest.mark.parametrize("key_id", ["-1", "0x7", "٧", "9" * 400, "1 ", "NaN"])
async def test_a_strange_key_id_revokes_nothing(key_id: str) -> None:
    async with World().client() as client:
        assert (await client.delete(f"/api_keys/{quote(key_id)}")).status_code in (400, 404)


_LSN_OR_NOT = ["0/ZZ", "0", "/", "0/123456789", "-1/0", "0x0/0", "0/1\n", "٠/1", "0/1 OR 1=1", "9" * 400]
_TIME_OR_NOT = [
    "yesterday",
    "2026-02-31T00:00:00Z",
    "2026-03-04T05:06:60Z",
    "2026-03-04T25:06:07Z",
    "2026-03-04T05:06:07",
    "2026-03-04",
    "1772600767",
    "-2026-03-04T05:06:07Z",
    "9999-12-31T23:59:59Z",
    "9999-12-31T23:59:59-23:59",
    "0001-01-01T00:00:00+23:59",
    "0000-01-01T00:00:00Z",
    "2026-03-04T05:06:07Z\n",
    "٢٠٢٦-03-04T05:06:07Z",
    "2026-03-04T05:06:07+99:99",
    "2026-03-04T05:06:07." + "9" * 400 + "Z",
]
_TIMES = [
    *(("POST", f"{P}/branches", {"branch": {field: "?"}}) for field in ("parent_timestamp", "expires_at")),
    ("PATCH", B, {"branch": {"expires_at": "?"}}),
    ("POST", f"{B}/restore", {"source_branch_id": BRANCH, "source_timestamp": "?"}),
    ("PATCH", f"{P}/snapshots/{SNAPSHOT}", {"snapshot": {"expires_at": "?"}}),
    *(("POST", f"{B}/snapshot?{field}=?", None) for field in ("timestamp", "expires_at")),
    ("GET", f"{B}/schema?db_name=neondb&timestamp=?", None),
    *(("GET", f"{B}/compare_schema?db_name=neondb&{field}=?", None) for field in ("timestamp", "base_timestamp")),
]
_LSNS = [
    ("POST", f"{P}/branches", {"branch": {"parent_lsn": "?"}}),
    ("POST", f"{B}/restore", {"source_branch_id": BRANCH, "source_lsn": "?"}),
    ("POST", f"{B}/snapshot?lsn=?", None),
    ("GET", f"{B}/schema?db_name=neondb&lsn=?", None),
    *(("GET", f"{B}/compare_schema?db_name=neondb&{field}=?", None) for field in ("lsn", "base_lsn")),
]


def _with(text: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _with(text, inner) for name, inner in value.items()}
    return text if value == "?" else value


@pytest.mark.parametrize(
    ("places", "texts"), [(_TIMES, _TIME_OR_NOT), (_LSNS, _LSN_OR_NOT)], ids=["timestamps", "positions"]
)
async def test_a_point_that_is_none_is_refused_wherever_it_stands(places: list[Any], texts: list[str]) -> None:
    world = _fresh()
    async with world.client() as client:
        for method, path, body in places:
            for text in texts:
                world.later(60)
                where = path.removesuffix("?") + quote(text) if path.endswith("?") else path
                answer = await client.request(method, where, json=_with(text, body))
                assert answer.status_code == 400, (method, where, text, answer.text)
                assert set(answer.json()) == {"request_id", "code", "message"}
    assert (world.branches.created, world.branches.changes, world.branches.restored) == ([], [], [])
    assert (world.snapshots.created, world.snapshots.changes, world.schemas.asked) == ([], [], [])


@pytest.mark.parametrize(
    ("method", "path", "body", "says"),
    [
        (
            "POST",
            f"{P}/branches",
            {"branch": {"parent_lsn": "0/1", "parent_timestamp": "2026-03-04T05:06:07Z"}},
            "both",
        ),
        (
            "POST",
            f"{B}/restore",
            {"source_branch_id": BRANCH, "source_lsn": "0/1", "source_timestamp": "2026-03-04T05:06:07Z"},
            "both",
        ),
        ("POST", f"{B}/snapshot?lsn=0/1&timestamp=2026-03-04T05:06:07Z", None, "both"),
        ("GET", f"{B}/schema?db_name=neondb&lsn=0/1&timestamp=2026-03-04T05:06:07Z", None, "both"),
        ("GET", f"{B}/compare_schema?db_name=d&base_lsn=0/1&base_timestamp=2026-03-04T05:06:07Z", None, "both"),
        ("POST", f"{P}/branches", {"branch": {"name": "n" * 257}}, "`branch.name`"),
        ("POST", f"{P}/branches", {"branch": {"name": ""}}, "`branch.name`"),
        ("POST", f"{P}/branches", {"branch": {"name": "a\0b"}}, "U+0000"),
        ("POST", f"{P}/branches", {"branch": {"parent_id": "../.."}}, "invalid branch id"),
        ("POST", f"{P}/branches", {"branch": {"init_source": "nothing"}}, "`branch.init_source`"),
        ("POST", f"{P}/branches", {"branch": {"protected": "yes"}}, "`branch.protected`"),
        ("POST", f"{P}/branches", {"endpoints": [{"type": "write_only"}]}, "endpoints"),
        ("POST", f"{P}/branches", {"endpoints": [{}]}, "`type`"),
        ("POST", f"{P}/branches", {"annotation_value": {"a": 1}}, "annotation_value"),
        ("PATCH", B, {}, "`branch`"),
        ("PATCH", B, {"branch": {"name": None, "expires_at": 5}}, "`branch.expires_at`"),
        ("POST", f"{B}/restore", {}, "`source_branch_id`"),
        ("POST", f"{B}/restore", {"source_branch_id": "MAIN"}, "invalid branch id"),
        ("POST", f"{P}/snapshots/SNAP/restore", None, "invalid snapshot id"),
        ("POST", f"{B}/snapshot?name=" + "n" * 257, None, "name"),
        ("GET", f"{B}/schema", None, "db_name"),
        ("GET", f"{B}/schema?db_name=%00", None, "U+0000"),
        ("GET", f"{B}/schema?db_name=" + "d" * 64, None, "invalid database name"),
        ("GET", f"{B}/schema?db_name=neondb&format=xml", None, "format"),
        ("GET", f"{B}/compare_schema?db_name=neondb&base_branch_id=%00", None, "U+0000"),
        ("PUT", f"{B}/backup_schedule", {"schedule": [{"frequency": "secondly"}]}, "frequency"),
        ("PUT", f"{B}/backup_schedule", {"schedule": [{"frequency": "daily", "hour": 24}]}, "hour"),
        ("PUT", f"{B}/backup_schedule", {"schedule": [{"frequency": "monthly", "day": 0}]}, "day"),
        ("PUT", f"{B}/backup_schedule", {"schedule": [{"frequency": "yearly", "month": 13}]}, "month"),
        ("PUT", f"{B}/backup_schedule", {"schedule": [{"frequency": "daily", "retention_seconds": -1}]}, "retention"),
        (
            "PUT",
            f"{B}/backup_schedule",
            {"schedule": [{"frequency": "daily", "retention_seconds": 10**18}]},
            "retention",
        ),
        ("PUT", f"{B}/backup_schedule", {"schedule": [{"frequency": "hourly"}] * 21}, "schedule"),
        ("GET", f"{P}/branches?limit=10001", None, "limit"),
        ("GET", f"{P}/branches?cursor=%00", None, "U+0000"),
        ("GET", f"{P}/branches?include_deleted=perhaps", None, "include_deleted"),
        ("DELETE", f"{B}?hard_delete=2", None, "hard_delete"),
    ],
)
async def test_what_a_branch_or_snapshot_cannot_be_asked(method: str, path: str, body: Any, says: str) -> None:
    world = _fresh()
    async with world.client() as client:
        answer = await client.request(method, path, json=body)
    assert answer.status_code == 400, answer.text
    assert ("cannot be specified at the same time" if says == "both" else says) in answer.json()["message"]


async def test_a_refusal_does_not_echo_what_it_could_not_read() -> None:
    """A name may be a secret typed into the wrong place, or a terminal's escape sequence."""
    status, message = await post(b'{"role": {"name": "' + b"\\u001b[31m" * 20 + b'"}}', f"{B}/roles")
    assert status == 400
    assert "\x1b" not in message


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=70)
_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
_FIELDS = """
    allowed_ips autoscaling_limit_max_cu autoscaling_limit_min_cu branch branch_id database database_name
    default_endpoint_settings disabled endpoint history_retention_seconds ips key_name logical_size_bytes name no_login
    org_id owner_name pg_settings pg_version project protected_branches_only quota region_id role role_name settings
    store_passwords suspend_timeout_seconds type annotation_value archived endpoints expires_at finalize_restore
    frequency day hour month retention_seconds init_source parent_id parent_lsn parent_timestamp preserve_under_name
    protected schedule snapshot source_branch_id source_lsn source_timestamp target_branch_id
""".split()
_SHAPED = st.recursive(
    _SCALARS | st.sampled_from([BRANCH, ENDPOINT, "read_write", "192.0.2.0/24", "0/1", "2026-03-04T05:06:07Z"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_FIELDS), inner, max_size=6),
    max_leaves=12,
)


@pytest.mark.parametrize("route", WITH_BODY, ids=lambda route: route.name)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(value=st.one_of(_SHAPED, _VALUES), data=st.data())
async def test_no_json_is_an_error_of_ours(route: Any, value: Any, data: st.DataObject) -> None:
    """Also values that look right to the first field and wrong to the next."""
    body = json.loads(json.dumps(BODIES[route.name]))
    noun = next(iter(body))
    if data.draw(st.booleans()):
        body = value
    elif isinstance(body[noun], dict) and isinstance(value, dict):
        body[noun] |= value
    else:
        body[noun] = value
    await _never_500(route, json.dumps(body).encode("utf-8", "replace"))


@settings(max_examples=150, deadline=None)
@given(body=st.binary(max_size=200))
async def test_no_bytes_are_an_error_of_ours(body: bytes) -> None:
    await _never_500(WITH_BODY[0], body)
    await _never_500(WITH_BODY[0], b'{"project":{"name":"' + body + b'"}}')


async def _never_500(route: Any, body: bytes) -> None:
    async with _fresh().client() as client:
        answer = await client.request(route.method, path_of(route), content=body, headers=JSON)
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 300:
        assert set(answer.json()) == {"request_id", "code", "message"}


_worlds: list[World] = []


def _fresh() -> World:
    """One world for many calls, with its rate limits moved out of the way."""
    if not _worlds:
        _worlds.append(World())
    _worlds[0].later(60)
    _worlds[0].audit.events.clear()
    _worlds[0].roles.names = {"neondb_owner"}
    return _worlds[0]
