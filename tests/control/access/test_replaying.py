"""What was asked and what came of it are one statement; what nothing is known of says so."""

from cloister.base.directory import Spoken
from cloister.control.access.replaying import is_statement, told


def asked(number: int, text: str = "", kind: str = "simple", name: str = "", source: str = "") -> Spoken:
    return Spoken(
        number=number, kind=kind, text=text, name=name, source=source, outcome="asked", began_ms=1, ended_ms=1
    )


def ended(number: int, text: str) -> Spoken:
    return Spoken(number=number, kind="simple", text=text, outcome="done", began_ms=number, ended_ms=9)


def shown(*said: Spoken, is_over: bool = True) -> list[tuple[int, str, str]]:
    return [(it.number, it.text, it.outcome) for it in told(said, is_over=is_over)]


def test_a_statement_is_told_once_and_in_its_place() -> None:
    said = asked(1, "SELECT 1"), asked(2, "SELECT 2"), ended(1, "SELECT 1"), ended(0, ""), ended(2, "SELECT 2")
    assert shown(*said) == [(1, "SELECT 1", "done"), (2, "SELECT 2", "done"), (0, "", "done")]


def test_what_nothing_came_of_says_so() -> None:
    assert shown(asked(1, "SELECT pg_sleep(9)")) == [(1, "SELECT pg_sleep(9)", "unknown")]
    assert shown(asked(1, "SELECT pg_sleep(9)"), is_over=False) == [(1, "SELECT pg_sleep(9)", "asked")]


def test_an_execution_has_the_text_that_its_portal_had_when_it_was_asked() -> None:
    said = (
        asked(1, "SELECT 1", "prepare", name="a"),
        asked(2, "DROP TABLE t", "prepare", name="b"),
        asked(3, kind="bind", name="p", source="b"),
        asked(4, kind="bind", name="q", source="a"),
        asked(5, kind="extended", name="p"),
        asked(6, "SELECT 6", "prepare", name="b"),
        asked(7, kind="extended", name="nobody's"),
    )
    assert shown(*said) == [(5, "DROP TABLE t", "unknown"), (7, "", "unknown")]
    assert [it.number for it in said if is_statement(it)] == [5, 7]
