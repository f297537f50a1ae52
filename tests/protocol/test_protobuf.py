"""The wire format, held to Google's own implementation of it."""

from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st

from cloister.protocol.protobuf import Field, Kind, Message, ProtobufError, decode, encode

INNER = Message((Field(1, "text"), Field(3, "deep", Kind.BYTES)))
OUTER = Message(
    (
        Field(1, "whole", Kind.WHOLE),
        Field(2, "flag", Kind.FLAG),
        Field(4, "text"),
        Field(5, "bytes", Kind.BYTES),
        Field(16, "inner", INNER),
        Field(2047, "many", INNER, is_list=True),
    )
)
TYPES = {Kind.WHOLE: 3, Kind.FLAG: 8, Kind.TEXT: 9, Kind.BYTES: 12}


def _theirs() -> Any:
    """The same table, as a class of Google's."""
    file = descriptor_pb2.FileDescriptorProto(name="held.proto", package="held", syntax="proto3")
    for name, message in (("Inner", INNER), ("Outer", OUTER)):
        made = file.message_type.add(name=name)
        for each in message.fields:
            field = made.field.add(name=each.name, number=each.number, label=3 if each.is_list else 1)
            if isinstance(each.type, Kind):
                field.type = TYPES[each.type]
            else:
                field.type, field.type_name = 11, ".held.Inner"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("held.Outer"))


THEIRS = _theirs()

TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
INNERS = st.fixed_dictionaries({}, optional={"text": TEXTS, "deep": st.binary(max_size=20)})
OUTERS = st.fixed_dictionaries(
    {},
    optional={
        "whole": st.integers(-(2**63), 2**63 - 1),
        "flag": st.booleans(),
        "text": TEXTS,
        "bytes": st.binary(max_size=300),
        "inner": INNERS,
        "many": st.lists(INNERS, max_size=3),
    },
)


@given(OUTERS)
def test_what_we_write_says_the_same_to_google(said: dict[str, Any]) -> None:
    theirs = THEIRS.FromString(encode(OUTER, said))
    assert theirs == THEIRS(**said)


@given(OUTERS)
def test_what_google_writes_says_the_same_to_us(said: dict[str, Any]) -> None:
    ours = decode(OUTER, THEIRS(**said).SerializeToString())
    assert THEIRS(**ours) == THEIRS(**said)


@given(OUTERS)
def test_a_newer_peers_fields_are_passed_over(said: dict[str, Any]) -> None:
    assert decode(Message(OUTER.fields[:2]), encode(OUTER, said)) == {
        name: value for name, value in said.items() if name in ("whole", "flag")
    }


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    try:
        decode(OUTER, data)
    except ProtobufError:
        return


@pytest.mark.parametrize(
    "data",
    [
        b"\x08", b"\x08" + b"\xff" * 10 + b"\x01", b"\x22\x05abc", b"\x22\xff\xff\xff\xff\x0f", b"\x0b\x0c",  # too short, too long, a group
        b"\x0a\x00", b"\x20\x01", b"\x22\x01\xff", b"\x00\x00", b"\x09" + bytes(8),  # of another kind, no text, no number
    ],
)  # fmt: skip
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(ProtobufError):
        decode(OUTER, data)


def test_a_word_that_the_table_does_not_have_does_not_go_unsaid() -> None:
    with pytest.raises(KeyError):
        encode(OUTER, {"wohle": 1})
