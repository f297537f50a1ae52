"""That neighbours are kept apart on a core, as far as this machine can; the kernel's answers are played where it cannot."""

import ctypes
import errno
import os
import subprocess
from pathlib import Path

import pytest

from cloister.node.sandbox import cores
from cloister.node.sandbox.cores import Support, cookie, keep_apart, support


class Kernel:
    """Of a machine with hyperthreads, that does core scheduling. `refuses`: the error of one that does not."""

    def __init__(self, refuses: int = 0) -> None:
        self.refuses = refuses
        self.cookies: dict[int, int] = {}

    def call(self, command: int, pid: int, scope: int, address: int) -> int:
        if self.refuses:
            ctypes.set_errno(self.refuses)
            return -1
        match command, scope, bool(address):
            case 1, 1, False:
                self.cookies[pid] = 0x1000 + len(self.cookies)
            case 0, 0, True:
                ctypes.c_ulonglong.from_address(address).value = self.cookies.get(pid, 0)
            case asked:
                pytest.fail(f"the kernel knows no {asked}")
        return 0


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel()
    monkeypatch.setattr(cores, "_call", kernel.call)
    return kernel


def topology(path: Path, *siblings: str) -> Path:
    for number, text in enumerate(siblings):
        directory = path / f"cpu{number}" / "topology"
        directory.mkdir(parents=True)
        (directory / "thread_siblings_list").write_text(text + "\n")
    return path


def test_each_has_a_cookie_of_its_own_and_the_rest_of_the_machine_has_none(kernel: Kernel) -> None:
    assert keep_apart(7)
    assert keep_apart(8)
    assert cookie(7) != cookie(8)
    assert 0 not in (cookie(7), cookie(8))
    assert cookie(9) == 0
    assert support() is Support.ON


@pytest.mark.parametrize("error", [errno.ENODEV, errno.EINVAL])
def test_a_machine_that_cannot_is_no_error(error: int, kernel: Kernel) -> None:
    kernel.refuses = error
    assert not keep_apart(7)
    assert cookie(7) is None


@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOMEM, errno.ESRCH])
def test_one_that_could_and_did_not_is(error: int, kernel: Kernel) -> None:
    kernel.refuses = error
    with pytest.raises(OSError, match="PR_SCHED_CORE of process 7"):
        keep_apart(7)


@pytest.mark.parametrize(
    ("siblings", "found"),
    [
        (("0", "1"), Support.NO_THREADS),
        (("0,2", "1,3", "0,2", "1,3"), Support.MISSING),
        (("0-1", "0-1"), Support.MISSING),
    ],
)
def test_without_it_the_topology_says_whether_it_is_missed(
    siblings: tuple[str, ...], found: Support, kernel: Kernel, tmp_path: Path
) -> None:
    kernel.refuses = errno.EINVAL
    assert support(topology(tmp_path, *siblings)) is found


def test_the_kernel_here_says_one_of_the_three_and_does_as_it_says() -> None:
    here = support()
    child = subprocess.Popen(["sleep", "60"])
    try:
        assert keep_apart(child.pid) is (here is Support.ON)
        assert bool(cookie(child.pid)) is (here is Support.ON)
        assert not cookie(os.getpid())
    finally:
        child.kill()
        child.wait()
