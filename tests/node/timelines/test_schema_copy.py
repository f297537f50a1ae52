"""What a source tells of itself, read."""

import pytest

from cloister.base.errors import UnprocessableError
from cloister.node.timelines import schema_copy


def said(kind: str, statement: str) -> str:
    return f'\t 1: {kind} = "{statement.encode().hex()}"\t(typeid = 25, len = -1, typmod = -1, byval = f)\n'


def count(number: int) -> str:
    return f'\t 1: statements = "{number}"\t(typeid = 20, len = 8, typmod = -1, byval = t)\n'


def test_statements_are_sorted_by_when_and_where_they_are_said() -> None:
    output = said("first", 'CREATE ROLE "ä"') + said("last", "ALTER …") + count(2) + said("in_17", "REASSIGN …")
    assert schema_copy.told(output) == schema_copy.Told(['CREATE ROLE "ä"'], {17: ["REASSIGN …"]}, ["ALTER …"])


def test_what_cannot_be_one_line_is_refused() -> None:
    for text in ('CREATE ROLE "a\nb"', 'CREATE ROLE "a\0b"'):
        with pytest.raises(UnprocessableError):
            schema_copy.told(said("first", text) + count(1))


def test_an_answer_whose_beginning_was_cut_off_is_refused() -> None:
    with pytest.raises(UnprocessableError):
        schema_copy.told(said("first", "CREATE ROLE a") + count(2))
    with pytest.raises(UnprocessableError):
        schema_copy.told(said("first", "CREATE ROLE a"))


def test_too_many_databases_are_refused() -> None:
    line = '\t 1: database = "{}"\t(typeid = 26, len = 4, typmod = -1, byval = t)\n'
    assert schema_copy.databases(line.format(5) + line.format(16400)) == [5, 16400]
    with pytest.raises(UnprocessableError):
        schema_copy.databases("".join(line.format(n) for n in range(schema_copy.DATABASES_MAX + 1)))


def test_passwords_are_asked_for_only_where_they_are_kept() -> None:
    assert b"rolpassword" in schema_copy.questions(18, keeps_passwords=True)
    assert b"rolpassword" not in schema_copy.questions(18, keeps_passwords=False)


def test_every_sentence_is_one_line() -> None:
    for major in (16, 17, 18):
        lines = schema_copy.questions(major, keeps_passwords=True).decode().splitlines()
        assert all(line.startswith("SELECT ") and line.endswith(";") for line in lines)
