"""Both hierarchies, written into plain directories that look like them. Version 1 is real in test_computes.py."""

import errno
import os
from pathlib import Path

import pytest

from cloister.node.sandbox import cgroups as module
from cloister.node.sandbox.cgroups import Cgroups, Disk, Limits, detect, disk_number

LIMITS = Limits(memory_bytes=1024**3, cpu_cores=0.25, processes=136, disk=Disk(device="7:3", bytes_per_s=167_772_160))


def unified(root: Path, controllers: str = "cpuset cpu io memory pids") -> Cgroups:
    (root / "cgroup.controllers").write_text(controllers)
    return detect("abcd", root)


CONTROLLERS = {
    "memory": "memory.limit_in_bytes",
    "pids": "cgroup.procs",
    "cpu": "cpu.cfs_quota_us",
    "blkio": "blkio.throttle.read_bps_device",
}


def per_controller(root: Path, *, without: str = "") -> Cgroups:
    for controller, file in CONTROLLERS.items():
        if controller == without:
            continue
        (root / controller).mkdir()
        (root / controller / file).touch()
    return detect("abcd", root)


def test_version_2_gets_its_controllers_and_its_limits(tmp_path: Path) -> None:
    cgroups = unified(tmp_path)
    assert cgroups.describe() == "v2"
    group = cgroups.create("ep-a-b-1", LIMITS)
    group.attach(4321)
    path = tmp_path / "cloister-abcd" / "ep-a-b-1"
    assert {file.name: file.read_text() for file in path.iterdir()} == {
        "memory.max": str(1024**3),
        "memory.swap.max": "0",
        "pids.max": "136",
        "cpu.max": "5000 20000",
        "cpu.weight": "25",
        "io.max": "7:3 rbps=167772160 wbps=167772160",
        "cgroup.procs": "4321",
    }
    for directory in (tmp_path, tmp_path / "cloister-abcd"):
        assert (directory / "cgroup.subtree_control").read_text() == "+memory +pids +cpu +io"
    assert cgroups.names() == ["ep-a-b-1"]


def test_version_1_gets_a_group_in_each_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloister.node.sandbox.cgroups.HOST_CORES", 4)
    cgroups = per_controller(tmp_path)
    assert cgroups.describe() == "v1"
    group = cgroups.create("ep-a-b-1", LIMITS)
    group.attach(4321)
    group.set_cpu(2)

    def read(controller: str, file: str) -> str:
        return (tmp_path / controller / "cloister-abcd" / "ep-a-b-1" / file).read_text()

    assert read("memory", "memory.limit_in_bytes") == str(1024**3)
    assert read("memory", "memory.swappiness") == "0"
    assert read("pids", "pids.max") == "136"
    assert (read("cpu", "cpu.cfs_quota_us"), read("cpu", "cpu.cfs_period_us")) == ("40000", "20000")
    assert read("cpu", "cpu.shares") == "2048"
    for what in ("read", "write"):
        assert read("blkio", f"blkio.throttle.{what}_bps_device") == "7:3 167772160"
    assert [read(controller, "cgroup.procs") for controller in CONTROLLERS] == ["4321"] * 4


def test_where_version_1_counts_swap_there_is_none_beside_the_memory(tmp_path: Path) -> None:
    cgroups = per_controller(tmp_path)
    group = tmp_path / "memory" / "cloister-abcd" / "ep-a-b-1"
    group.mkdir()
    (group / "memory.memsw.limit_in_bytes").touch()
    cgroups.create("ep-a-b-1", LIMITS)
    assert {file.name: file.read_text() for file in group.iterdir()} == {
        "memory.limit_in_bytes": str(1024**3),
        "memory.memsw.limit_in_bytes": str(1024**3),
    }


@pytest.mark.parametrize("version", [1, 2])
def test_without_a_limit_for_disks_the_others_hold(tmp_path: Path, version: int) -> None:
    cgroups = per_controller(tmp_path, without="blkio") if version == 1 else unified(tmp_path, "cpu memory pids")
    assert cgroups.describe() == f"v{version}"
    cgroups.create("ep-a-b-1", LIMITS).attach(4321)
    written = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert "pids.max" in written
    assert not {it for it in written if it.startswith(("io.", "blkio."))}


def test_what_is_no_disk_has_no_limit_and_another_error_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails_with(number: int) -> None:
        def write(path: Path, _: str) -> None:
            raise OSError(number, "", str(path))

        monkeypatch.setattr(Path, "write_text", write)

    for none in (errno.ENODEV, errno.EINVAL):
        fails_with(none)
        module._write_if_a_disk(tmp_path / "io.max", "0:40 rbps=1 wbps=1")
    fails_with(errno.EACCES)
    with pytest.raises(PermissionError):
        module._write_if_a_disk(tmp_path / "io.max", "7:3 rbps=1 wbps=1")


def test_a_compute_that_may_use_every_core_has_no_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloister.node.sandbox.cgroups.HOST_CORES", 4)
    first, second = tmp_path / "v1", tmp_path / "v2"
    first.mkdir()
    second.mkdir()
    per_controller(first).create("ep-a-b-1", LIMITS).set_cpu(4)
    unified(second).create("ep-a-b-1", LIMITS).set_cpu(4)
    assert (first / "cpu" / "cloister-abcd" / "ep-a-b-1" / "cpu.cfs_quota_us").read_text() == "-1"
    assert (second / "cloister-abcd" / "ep-a-b-1" / "cpu.max").read_text() == "max 20000"


def test_all_computes_together_weigh_like_twice_the_hosts_cores(tmp_path: Path) -> None:
    first, second = tmp_path / "v1", tmp_path / "v2"
    first.mkdir()
    second.mkdir()
    per_controller(first)
    unified(second)
    cores = os.cpu_count() or 1
    assert (first / "cpu" / "cloister-abcd" / "cpu.shares").read_text() == str(2 * cores * 1024)
    assert (second / "cloister-abcd" / "cpu.weight").read_text() == str(2 * cores * 100)


def test_a_host_without_them_says_why(tmp_path: Path) -> None:
    assert detect("abcd", tmp_path).describe() == (
        f"none: {tmp_path} is not a version 2 tree; version 1 without memory and pids and cpu"
    )
    assert "version 2 without memory" in unified(tmp_path, "cpu pids").describe()


def test_without_them_computes_still_have_a_group_that_does_nothing(tmp_path: Path) -> None:
    cgroups = detect("abcd", tmp_path)
    group = cgroups.create("ep-a-b-1", LIMITS)
    group.attach(1)
    group.remove()
    assert cgroups.names() == []


def test_a_group_that_stays_full_is_an_error_and_a_missing_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloister.node.sandbox.cgroups.REMOVE_TIMEOUT_S", 0)
    cgroups = unified(tmp_path)
    cgroups.find("ep-never-was-1").remove()
    group = cgroups.create("ep-a-b-1", LIMITS)
    with pytest.raises(
        OSError, match="not empty"
    ):  # A plain directory with files in it; a real group's are the kernel's.
        group.remove()


def test_of_a_partition_the_disk_is_limited(tmp_path: Path) -> None:
    """The kernel takes no limit for a partition, and `plain` storage is often on one."""
    disk = tmp_path / "devices" / "pci0" / "sda"
    (disk / "sda2").mkdir(parents=True)
    (disk / "dev").write_text("8:0\n")
    (disk / "sda2" / "dev").write_text("8:2\n")
    (disk / "sda2" / "partition").write_text("2\n")
    links = tmp_path / "block"
    links.mkdir()
    for number, place in (("8:0", disk), ("8:2", disk / "sda2")):
        (links / number).symlink_to(place)
    assert disk_number(os.makedev(8, 2), links) == "8:0"
    assert disk_number(os.makedev(8, 0), links) == "8:0"
    assert disk_number(os.makedev(0, 30), links) == "0:30", "a tmpfs is nobody's"
