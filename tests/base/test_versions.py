"""Versions and the condition on them: what was said is what is compared, and what cannot be read is refused."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.base.errors import BadRequestError
from cloister.base.versions import Condition, MovedError, parse, tag, version

OPAQUE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_characters='"\x7f'), max_size=12)
BETWEEN = st.sampled_from([",", ", ", " ,\t", ",,", " , ,"])


@given(st.lists(st.tuples(st.booleans(), OPAQUE), min_size=1, max_size=5), st.data())
def test_whatever_list_is_written_is_read(tags: list[tuple[bool, str]], data: st.DataObject) -> None:
    """Whether in one line or in several, and with whatever between them, commas inside included."""
    lines, line = [], ""
    for number, (is_weak, opaque) in enumerate(tags):
        line += ("W/" if is_weak else "") + tag(opaque)
        if number + 1 == len(tags) or data.draw(st.booleans()):
            lines.append(line)
            line = ""
        else:
            line += data.draw(BETWEEN)
    assert parse(lines) == Condition(frozenset(opaque for is_weak, opaque in tags if not is_weak))


@given(st.lists(st.one_of(st.text(), st.text('W/", *\ta', max_size=12)), min_size=1, max_size=3))
def test_any_text_is_a_condition_or_refused(lines: list[str]) -> None:
    """And what it asks for stands in it, in quotes."""
    with contextlib.suppress(BadRequestError):
        condition = parse(lines)
        assert condition is not None
        assert condition.is_any == (",".join(lines).strip(" \t") == "*")
        assert all(tag(each) in ",".join(lines) for each in condition.versions)


@pytest.mark.parametrize(
    "text",
    ["", " ", ",", "abc", '"abc', 'abc"', '"a"b"', '"a" "b"', "'a'", 'w/"a"', 'W/ "a"', "W/", '"a b"', '"a\x7f"', '"a\nb"',
     '*, "a"', '"a", *', "**", '"\u0100"'],
)  # fmt: skip
def test_what_is_no_list_of_tags_is_refused(text: str) -> None:
    with pytest.raises(BadRequestError):
        parse([text])


def test_no_header_is_no_condition() -> None:
    assert parse([]) is None


def test_a_weak_tag_holds_for_nothing() -> None:
    condition = parse(['W/"a", "b"'])
    assert condition is not None
    condition.require("b")
    with pytest.raises(MovedError):
        condition.require("a")


def test_a_star_is_whatever_is_there() -> None:
    condition = parse(["*"])
    assert condition is not None
    condition.require("a")


def test_versions_are_of_what_is_said_and_of_its_kind() -> None:
    assert version("role", "a", ["b"]) == version("role", "a", ["b"])
    assert len({version("role", "a", "b"), version("role", "ab"), version("database", "a", "b"), version("role")}) == 4
    assert version("x", {"a": 1, "b": 2}) == version("x", {"b": 2, "a": 1})
