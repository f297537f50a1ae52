"""What is in memory gets onto no disk in clear: with a kernel that is made of files. (No swap is turned on by a test.)"""

from dataclasses import dataclass
from pathlib import Path

import pytest

from cloister.app import swap
from cloister.base.errors import PreconditionError
from cloister.base.settings import Settings

HEAD = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"


@dataclass
class Kernel:
    places: swap.Places

    def turn_on(self, *devices: str) -> None:
        lines = "".join(f"{device}  partition\t8388604\t0\t-2\n" for device in devices)
        (self.places.proc / "swaps").write_text(HEAD + lines)

    def encrypt(self, name: str, uuid: str) -> None:
        (self.places.block / name / "dm").mkdir(parents=True)
        (self.places.block / name / "dm" / "uuid").write_text(uuid)

    def compress(self, name: str, *, backing: str | None = None) -> None:
        """`backing` None: a kernel that cannot write it to a disk."""
        (self.places.block / name).mkdir()
        if backing is not None:
            (self.places.block / name / "backing_dev").write_text(f"{backing}\n")

    def group(self, pid: str, path: str, *, maximum: str | None = "max") -> Path:
        """Version 2; `maximum` None: a kernel that does not count swap."""
        (self.places.proc / pid).mkdir(exist_ok=True)
        (self.places.proc / pid / "cgroup").write_text(f"0::{path}\n")
        (self.places.cgroups / "cgroup.controllers").write_text("cpu io memory pids\n")
        group = self.places.cgroups / path.removeprefix("/")
        group.mkdir(parents=True, exist_ok=True)
        if maximum is not None:
            (group / "memory.swap.max").write_text(f"{maximum}\n")
        return group

    def version_1(self) -> None:
        (self.places.proc / "self").mkdir(exist_ok=True)
        (self.places.proc / "self" / "cgroup").write_text("9:memory:/user.slice\n0::/user.slice\n")


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    for name in ("proc", "block", "cgroups"):
        (tmp_path / name).mkdir()
    return Kernel(swap.Places(tmp_path / "proc", tmp_path / "block", tmp_path / "cgroups"))


def settings(tmp_path: Path, **more: str) -> Settings:
    return Settings(state_dir=str(tmp_path / "state"), **more)  # type: ignore[arg-type]


def test_open_is_what_is_neither_encrypted_nor_memory(kernel: Kernel) -> None:
    assert swap.open_devices(kernel.places) == []
    kernel.encrypt("dm-1", "CRYPT-PLAIN-cryptswap")
    kernel.encrypt("dm-2", "LVM-abc")
    kernel.compress("zram0")
    kernel.turn_on("/dev/zram0", "/dev/dm-1", "/dev/dm-2", "/swap\\040file", "/dev/sda2")
    assert swap.open_devices(kernel.places) == ["/dev/dm-2", "/dev/sda2", "/swap\\040file"]


def test_what_is_called_encrypted_or_memory_and_is_not_is_open(kernel: Kernel) -> None:
    """A file with such a name, zram that writes to a disk, and device-mapper's targets that only check."""
    kernel.compress("zram0", backing="none")
    kernel.compress("zram1", backing="/dev/sdb1")
    kernel.encrypt("dm-1", "CRYPT-LUKS2-0123-swap")
    kernel.encrypt("dm-2", "CRYPT-INTEGRITY-swap")
    kernel.turn_on("/zram.swap", "/dev/zram0", "/dev/zram1", "/dev/dm-1", "/dev/dm-2")
    assert swap.open_devices(kernel.places) == ["/dev/dm-2", "/dev/zram1", "/zram.swap"]


def test_the_group_that_the_platform_is_started_in_may_use_no_swap(kernel: Kernel, tmp_path: Path) -> None:
    """The case of a fresh server, which has a swap partition."""
    group = kernel.group("self", "/system.slice/cloister.service")
    kernel.turn_on("/dev/sda2")
    assert swap.refuse(settings(tmp_path), kernel.places) == ""
    assert (group / "memory.swap.max").read_text().strip() == "0"


def test_out_of_the_root_of_all_groups_one_of_our_own_is_made(kernel: Kernel) -> None:
    kernel.group("self", "/", maximum=None)
    ours = kernel.places.cgroups / "cloister-abc-platform"
    ours.mkdir()
    (ours / "memory.swap.max").write_text("max")
    assert swap.keep_out("abc", kernel.places) == ""
    assert (ours / "cgroup.procs").read_text().isdigit()
    assert (kernel.places.cgroups / "cgroup.subtree_control").read_text() == "+memory"


def test_a_limit_of_a_group_above_counts(kernel: Kernel) -> None:
    kernel.group("7", "/a.slice/b.service")
    assert not swap.is_kept_out(7, kernel.places)
    kernel.group("8", "/a.slice", maximum="0")
    assert swap.is_kept_out(7, kernel.places)
    assert not swap.is_kept_out(9, kernel.places), "who is gone is not said to be safe"


def test_in_a_container_the_root_is_a_group_like_others(kernel: Kernel) -> None:
    root = kernel.group("self", "/")
    assert swap.keep_out("abc", kernel.places) == ""
    assert (root / "memory.swap.max").read_text() == "0"
    assert swap.is_kept_out("self", kernel.places)  # type: ignore[arg-type]


def test_where_memory_may_be_swapped_in_clear_it_is_refused_unless_somebody_says_so(
    kernel: Kernel, tmp_path: Path
) -> None:
    kernel.version_1()
    assert swap.refuse(settings(tmp_path), kernel.places) == "", "no swap is on"
    kernel.turn_on("/dev/sda2")
    with pytest.raises(PreconditionError) as refused:
        swap.refuse(settings(tmp_path), kernel.places)
    for word in ("/dev/sda2", "version 1", "swapoff -a", "--open-swap allow"):
        assert word in refused.value.public
    assert "/dev/sda2" in swap.refuse(settings(tmp_path, open_swap="allow"), kernel.places)
    assert swap.refuse(settings(tmp_path, storage="plain"), kernel.places) == ""


def test_a_kernel_that_does_not_count_swap_promises_nothing(
    kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel.group("self", "/user.slice", maximum=None)
    kernel.turn_on("/dev/sda2")
    write = Path.write_text

    def as_the_kernel_does(path: Path, text: str) -> int:
        """It makes no file that it does not know."""
        if not path.exists():
            raise FileNotFoundError(2, "No such file or directory")
        return write(path, text)

    monkeypatch.setattr(Path, "write_text", as_the_kernel_does)
    with pytest.raises(PreconditionError, match=r"memory\.swap\.max"):
        swap.refuse(settings(tmp_path), kernel.places)


def test_what_does_not_stay_as_it_was_set_is_not_believed(
    kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel.group("self", "/user.slice")
    kernel.turn_on("/dev/sda2")
    monkeypatch.setattr(Path, "write_text", lambda _path, text: len(text))
    with pytest.raises(PreconditionError, match="does not stay"):
        swap.refuse(settings(tmp_path), kernel.places)
