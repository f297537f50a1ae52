"""Programs are started with the descriptors that they are given and no others, whatever the agent's other threads do."""

import ctypes
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloister.base.errors import InternalError
from cloister.node import children


class LastMoment:
    """The C library, where another thread is quicker than the start of a program."""

    def __init__(self, other_thread: Callable[[], object]) -> None:
        self._other_thread = other_thread
        self._libc = ctypes.CDLL(None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._libc, name)

    def posix_spawn(self, *arguments: Any) -> Any:
        self._other_thread()
        return self._libc.posix_spawn(*arguments)


@pytest.fixture
def said() -> Iterator[int]:
    """Where a program's output goes."""
    descriptor = os.memfd_create("said")
    yield descriptor
    os.close(descriptor)


def heard(said: int) -> str:
    return os.pread(said, 1000, 0).decode()


def inheritable(at_least: int = 0) -> int:
    """As a supervisor hands it down, or a library leaves it that does not know better."""
    secret = os.memfd_create("secret")
    try:
        return fcntl.fcntl(secret, fcntl.F_DUPFD, at_least)
    finally:
        os.close(secret)


def test_a_child_has_the_descriptors_it_is_given_and_no_others(said: int) -> None:
    secret, high = inheritable(), inheritable(900)
    try:
        # Sources and targets overlap on purpose: 3 is somebody's source and somebody's target.
        child = children.spawn(["ls", "-1", "/proc/self/fd/"], {1: said, 3: secret, 5: secret})
        assert child.join(5) == 0
        # ls itself opens the directory, at the first number that is free.
        assert sorted(heard(said).split()) == ["0", "1", "2", "3", "4", "5"]
    finally:
        for descriptor in (secret, high):
            os.close(descriptor)


def test_a_number_in_between_that_it_is_not_given_is_closed(said: int) -> None:
    """Though it is open here, and inheritable."""
    between = inheritable()
    try:
        argv = ["readlink", f"/proc/self/fd/{between}", f"/proc/self/fd/{between + 1}"]
        assert children.spawn(argv, {1: said, between + 1: said}).join(5) == 1
        assert heard(said) == "/memfd:said (deleted)\n"
    finally:
        os.close(between)


def test_what_it_is_not_given_of_the_standard_ones_is_empty(said: int) -> None:
    assert children.spawn(["readlink", "/proc/self/fd/0", "/proc/self/fd/2"], {1: said}).join(5) == 0
    assert heard(said) == "/dev/null\n/dev/null\n"


def test_two_can_change_places(said: int) -> None:
    numbers = [os.memfd_create(name) for name in ("one", "other")]
    try:
        one, other = numbers
        links = [f"/proc/self/fd/{number}" for number in numbers]
        assert children.spawn(["readlink", *links], {1: said, one: other, other: one}).join(5) == 0
        assert heard(said) == "/memfd:other (deleted)\n/memfd:one (deleted)\n"
    finally:
        for number in numbers:
            os.close(number)


def test_what_another_thread_opens_at_the_last_moment_is_not_inherited(
    said: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenant's key would be in the sandbox of another."""
    opened: list[int] = []
    monkeypatch.setattr(children, "_LIBC", LastMoment(lambda: opened.append(inheritable())))
    assert children.spawn(["ls", "-1", "/proc/self/fd/"], {1: said}).join(5) == 0
    (key,) = opened
    assert os.get_inheritable(key)
    assert sorted(heard(said).split()) == ["0", "1", "2", "3"], "3 is the directory, which ls opens"
    os.close(key)


def test_what_another_thread_closes_at_the_last_moment_takes_nobodys_place(
    said: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [inheritable(number) for number in (*range(60, 70), 900)]

    def close() -> None:
        for other in others:
            os.close(other)

    monkeypatch.setattr(children, "_LIBC", LastMoment(close))
    assert children.spawn(["echo", "hello"], {1: said}).join(5) == 0
    assert heard(said) == "hello\n"


def test_starting_a_program_leaves_no_descriptor_here(said: int) -> None:
    before = sorted(Path("/proc/self/fd").iterdir())
    assert children.spawn(["true"], {1: said, 7: said}).join(5) == 0
    assert sorted(Path("/proc/self/fd").iterdir()) == before


def test_a_child_has_its_environment_and_nothing_of_ours(said: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "ours")
    assert children.spawn(["env"], {1: said}, environment={"ONE": "1=2"}).join(5) == 0
    assert heard(said) == "ONE=1=2\n"


def test_a_child_is_in_a_session_of_its_own_and_hears_every_signal(said: int) -> None:
    """Python ignores SIGPIPE, and hands that down to what is not told otherwise."""
    child = children.spawn(["grep", "-E", "^(SigBlk|SigIgn):|^NSsid:", "/proc/self/status"], {1: said})
    assert child.join(5) == 0
    fields = dict(line.split(":\t") for line in heard(said).splitlines())
    # Two above these, the C library keeps for its own threads.
    assert [int(fields[name], 16) & 2**31 - 1 for name in ("SigBlk", "SigIgn")] == [0, 0]
    assert fields["NSsid"].split()[0] == str(child.pid)


def test_a_word_is_never_cut_short() -> None:
    with pytest.raises(ValueError, match="NUL"):
        children.spawn(["echo", "one\0two"], {})
    with pytest.raises(ValueError, match="NUL"):
        children.spawn(["echo"], {}, environment={"ONE": "one\0two"})


def test_what_cannot_be_started_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "find", lambda _program: tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match="gone"):
        children.spawn(["gone"], {})


def test_a_tool_that_fails_is_quoted() -> None:
    with pytest.raises(InternalError, match=r"ls failed with 2: .*No such file"):
        children.run(["ls", "/nonexistent"])


def test_a_tool_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "TOOL_TIMEOUT_S", 0.05)
    with pytest.raises(InternalError, match="took longer"):
        children.run(["sleep", "60"])


def test_a_tool_that_is_not_there_is_named() -> None:
    with pytest.raises(InternalError, match="no-such-tool is not installed"):
        children.run(["no-such-tool"])


def test_core_dumps_are_off_for_this_process_and_its_children() -> None:
    child = os.fork()
    if child == 0:
        children.forbid_core_dumps()
        process = children.spawn(["grep", "-qE", "Max core file size +([01]) +\\1 ", "/proc/self/limits"], {})
        os._exit(process.join(5) or 0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
