"""Values as Terraform writes them."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.cli.terraform.schema import Type
from cloister.cli.terraform.values import UNKNOWN, ValueFormError, decode, encode, known

TYPES = {each.name: each for each in Type}
TEXTS = st.text(st.characters(codec="utf-8"), max_size=10)


def _or(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.none(), st.just(UNKNOWN), values)


OBJECTS = st.fixed_dictionaries(
    {
        "TEXT": _or(TEXTS),
        "NUMBER": _or(st.one_of(st.integers(-(2**53), 2**53), st.sampled_from([0.25, 1.5, -2.75]))),
        "FLAG": _or(st.booleans()),
        "SET": _or(st.lists(_or(TEXTS).filter(lambda it: it is not None), max_size=3)),
        "TABLE": _or(st.dictionaries(TEXTS, TEXTS, max_size=3)),
    }
)


@given(OBJECTS)
def test_what_is_written_is_read_again(said: dict[str, Any]) -> None:
    assert decode(encode(said), TYPES) == said
    assert known(said) == ("UNKNOWN" not in repr(said))


@given(
    st.dictionaries(
        st.sampled_from(list(TYPES)), st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists)
    )
)
def test_any_other_value_is_of_its_type_or_refused(said: dict[str, Any]) -> None:
    try:
        found = decode({"msgpack": msgspec.msgpack.encode(said)}, TYPES)
    except ValueFormError:
        return
    assert found is not None
    assert set(found) == set(TYPES)


@given(st.binary(max_size=100))
def test_any_bytes_are_a_value_or_refused(data: bytes) -> None:
    for form in ("msgpack", "json"):
        try:
            decode({form: data}, TYPES)
        except ValueFormError:
            continue


@pytest.mark.parametrize(("said", "number"), [("12345678901234567890", 12345678901234567890), (1.0, 1), ("0.5", 0.5)])
def test_a_number_is_whole_where_it_is(said: object, number: float) -> None:
    found = decode({"msgpack": msgspec.msgpack.encode({"NUMBER": said})}, TYPES)
    assert found is not None
    assert repr(found["NUMBER"]) == repr(number)


def test_a_state_of_another_version_has_what_is_known_of_now() -> None:
    assert decode({"json": b'{"TEXT":"a","of_old":1}'}, TYPES) == dict.fromkeys(TYPES) | {"TEXT": "a"}


def test_what_is_only_half_known_is_not_known() -> None:
    refined = msgspec.msgpack.encode({"TEXT": msgspec.msgpack.Ext(12, b"\x81\x01\xc2")})
    assert decode({"msgpack": refined}, TYPES) == dict.fromkeys(TYPES) | {"TEXT": UNKNOWN}
