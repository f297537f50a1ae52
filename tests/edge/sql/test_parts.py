"""The parts without I/O: values, requests, messages, proofs, memory, frames."""

import json
import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.base.secret import Secret
from cloister.edge.gateway.errors import RefusedError
from cloister.edge.sql.answers import AnswerTooLargeError, ResultWriter, Room, postgres_error
from cloister.edge.sql.limits import ANSWER_BYTES_MAX
from cloister.edge.sql.proofs import Proofs
from cloister.edge.sql.request import Head, RequestError, Transaction
from cloister.edge.sql.values import InvalidValueError, as_json, parameter
from cloister.protocol.pgwire.extended import Column, data_row, row_description, statement
from cloister.protocol.pgwire.frames import ProtocolViolationError, take_message
from cloister.protocol.scram import Verifier

TEXT_ARRAY, JSON, FLOAT, INT = 1009, 114, 701, 23
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


def said(value: Any) -> Any:
    return json.loads(msgspec.json.encode(value))


def head(connection_string: str = "postgresql://ada:pw@ep-a.db.test/app", **headers: str) -> Head:
    pairs = [(b"neon-connection-string", connection_string.encode())]
    pairs += [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Head.read(pairs, "api.db.test", "db.test")


# -- values


@given(st.recursive(texts | st.none(), lambda inner: st.lists(inner, min_size=1, max_size=3), max_leaves=8))
def test_texts_in_arrays_come_back(value: Any) -> None:
    if not isinstance(value, list) or _depth(value) > 6 or not _is_rectangular(value):
        return
    literal = parameter(msgspec.json.encode(value))
    assert literal is not None
    assert said(as_json(literal, TEXT_ARRAY)) == value


def _depth(value: Any) -> int:
    return 1 + max(map(_depth, value)) if isinstance(value, list) else 0


def _is_rectangular(value: list[Any]) -> bool:
    return len({_depth(each) for each in value}) == 1


@pytest.mark.parametrize(
    ("value", "literal"),
    [
        ("x", b"x"), (None, None), (True, b"true"), (12345678901234567890, b"12345678901234567890"), (1.5, b"1.5"),
        ({"a": [1]}, b'{"a":[1]}'), ([], b"{}"), ([1, None, "N"], b'{"1",NULL,"N"}'),
        ([{"a": 'q"'}], b'{"{\\"a\\":\\"q\\\\\\"\\"}"}'),
    ],
)  # fmt: skip
def test_a_parameter(value: Any, literal: bytes | None) -> None:
    assert parameter(msgspec.json.encode(value)) == literal


def test_a_number_keeps_its_digits() -> None:
    assert parameter(b"1.10000000000000000000001") == b"1.10000000000000000000001"


@pytest.mark.parametrize("raw", [b'"a\\u0000"', b"[[[[[[[1]]]]]]]"])
def test_what_postgres_cannot_be_told(raw: bytes) -> None:
    with pytest.raises(InvalidValueError):
        parameter(raw)


@given(st.binary(max_size=60), st.sampled_from([16, 20, 21, 23, 25, 114, 700, 701, 1000, 1007, 1009, 3807, 12345]))
def test_whatever_a_compute_says_becomes_json(value: bytes, type_oid: int) -> None:
    said(as_json(value, type_oid))


@given(st.text(alphabet='{},"\\aN[]0:=', max_size=30))
def test_what_looks_like_an_array_becomes_json(text: str) -> None:
    said(as_json(text.encode(), TEXT_ARRAY))


def test_deep_json_of_a_compute_stays_text() -> None:
    deep = b"[" * 5000 + b"]" * 5000
    assert said(as_json(deep, JSON)) == deep.decode()


@pytest.mark.parametrize(
    ("text", "value"), [(b"NaN", "NaN"), (b"-Infinity", "-Infinity"), (b"1e+20", 1e20), (b"-0", 0)]
)
def test_floats(text: bytes, value: Any) -> None:
    assert said(as_json(text, FLOAT)) == value


# -- requests


def test_what_a_head_says() -> None:
    it = head(
        "postgres://a%40b:p%2Fw@EP-a-pooler.db.test:443/my%20app?application_name=me&sslmode=require&options=-c%20a%3Db"
    )
    assert it.startup.parameters == {
        "user": "a@b", "database": "my app", "client_encoding": "UTF8", "application_name": "me", "options": "-c a=b",
    }  # fmt: skip
    assert (it.target.endpoint, it.password.reveal()) == ("ep-a", "p/w")


@pytest.mark.parametrize("host", ["db.test", "api.db.test", "elsewhere.example", "127.0.0.1", "a.ep-a.db.test"])
def test_no_endpoint_is_named(host: str) -> None:
    with pytest.raises(RefusedError, match="Endpoint ID is not specified"):
        head(f"postgresql://ada:pw@{host}/app")


@given(st.text(max_size=80))
def test_any_connection_string_is_read_or_refused(text: str) -> None:
    try:
        it = head(f"postgresql://{text}")
    except (RequestError, RefusedError, UnicodeEncodeError):
        return
    assert not any("\0" in value for value in it.target.parameters.values())


@given(st.binary(max_size=200) | st.builds(lambda value: json.dumps(value).encode(), st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["query", "queries", "params", "arrayMode", "x"]), inner, max_size=4),
    max_leaves=10,
)))  # fmt: skip
@settings(max_examples=200)
def test_any_body_is_read_or_refused(body: bytes) -> None:
    it = head()
    try:
        work = it.parse(body)
    except RequestError:
        return
    assert all("\0" not in each.query for each in work.statements)


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b'{"query":1}', b'{"query":"a","queries":[]}', b'{"query":"\\ud800"}', b'{"query":"a","params":{}}',
     b'{"query":"a","params":["\\ud800"]}', b'"x"', b'{"query":"a"} x'],
)  # fmt: skip
def test_bodies_that_are_none(body: bytes) -> None:
    with pytest.raises(RequestError):
        head().parse(body)


@pytest.mark.parametrize(
    "headers",
    [{"neon_array_mode": "yes"}, {"neon_batch_isolation_level": "serializable"}, {"neon_batch_read_only": "1"},
     {"authorization": "Bearer x"}],
)  # fmt: skip
def test_headers_that_say_nothing_we_know(headers: dict[str, str]) -> None:
    with pytest.raises(RequestError):
        head(**headers)


def test_how_a_transaction_begins() -> None:
    assert Transaction().begin == "BEGIN"
    assert Transaction("RepeatableRead", is_read_only=False, is_deferrable=True).begin == (
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ WRITE DEFERRABLE"
    )


# -- messages


@given(texts, st.lists(st.binary(max_size=20) | st.none(), max_size=5))
def test_a_statement_is_four_whole_messages(query: str, parameters: list[bytes | None]) -> None:
    buffer = bytearray(statement(query, parameters))
    kinds = []
    while (taken := take_message(buffer, 1_000_000)) is not None:
        kinds.append(chr(taken[0]))
    assert kinds == ["P", "B", "D", "E"]


@given(st.binary(max_size=80))
def test_any_description_and_row_is_read_or_refused(body: bytes) -> None:
    for read in (row_description, lambda body: data_row(body, 1)):
        try:
            read(body)
        except ProtocolViolationError:
            continue


def test_a_row_of_other_length_than_announced() -> None:
    with pytest.raises(ProtocolViolationError):
        data_row(struct.pack(">hi", 1, -1), 2)


# -- answers


def test_room_ends() -> None:
    told: list[int] = []
    writer = ResultWriter(Room(told.append), as_array=True, is_raw=True)
    writer.describe([Column("a", 0, 0, 25, -1, -1)])
    for _ in range(ANSWER_BYTES_MAX // 1010):
        writer.row([b"x" * 1000])
    with pytest.raises(AnswerTooLargeError):
        writer.row([b"x" * 100_000])
    assert sum(told) <= ANSWER_BYTES_MAX


def test_an_error_without_a_message_has_one() -> None:
    assert json.loads(postgres_error(b"C42601\0\0"))["message"] == "error"


# -- proofs and memory


class Checker:
    def __init__(self) -> None:
        self.count = 0

    async def __call__(self, verifier: Verifier, password: str) -> bool:
        self.count += 1
        return verifier.matches_password(password)


async def test_a_proof_lives_as_long_as_its_verifier_and_no_longer_than_its_life() -> None:
    check, proofs, who = Checker(), Proofs(life_s=60, entries_max=10), ("ep-a", "ada")
    one, two = (Verifier.of_password("right", salt=salt * 16, iterations=1) for salt in (b"1", b"2"))
    for now in (0.0, 59.0):
        assert await proofs.is_right(who, Secret("right"), one, now, check)
    assert check.count == 1
    assert not await proofs.is_right(who, Secret("wrong"), one, 59.0, check)
    assert await proofs.is_right(who, Secret("right"), two, 59.0, check)  # the same password, stored anew
    assert await proofs.is_right(who, Secret("right"), two, 119.5, check)
    assert check.count == 4
    assert not await proofs.is_right(("ep-a", "bob"), Secret("right"), Verifier.mock("ep-a", "bob", b"x"), 0.0, check)


async def test_a_doomed_verifier_is_never_right_however_well_it_fits() -> None:
    check, proofs = Checker(), Proofs(life_s=60, entries_max=10)
    fits = Verifier.of_password("right", salt=b"1" * 16, iterations=1)
    doomed = Verifier(fits.iterations, fits.salt, fits.stored_key, fits.server_key, is_doomed=True)
    assert await proofs.is_right(("ep-a", "ada"), Secret("right"), fits, 0.0, check)
    assert not await proofs.is_right(("ep-a", "ada"), Secret("right"), doomed, 0.0, check)
    assert check.count == 2


async def test_proofs_are_forgotten_oldest_first() -> None:
    check, proofs = Checker(), Proofs(life_s=60, entries_max=2)
    verifier = Verifier.of_password("right", salt=b"1" * 16, iterations=1)
    for role in "abca":
        assert await proofs.is_right(("ep-a", role), Secret("right"), verifier, 0.0, check)
    assert check.count == 4
