"""A volume from its creation to its end, on real devices."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cloister.base.errors import ConflictError, InternalError, NotFoundError
from cloister.base.ids import ProjectId, new_project_id
from cloister.node.volumes import mounts, qemu
from cloister.node.volumes.qemu import uid_of
from tests.node.volumes.host import MIB, Fill, Host, daemon_of, new_key

pytestmark = pytest.mark.root

SIZE = 512 * MIB

_WRITER = """
import os, sys
for number in range(10**6):
    with open(f"{sys.argv[1]}/{number}", "wb") as file:
        file.write(b"%08d" % number * 1024)
        file.flush()
        os.fsync(file.fileno())
    directory = os.open(sys.argv[1], os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)
    print(number, flush=True)
"""


async def start_writer(directory: Path) -> asyncio.subprocess.Process:
    """A process that writes numbered files and prints each number once it is synced. It ends at the first error."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-c", _WRITER, str(directory)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )


def luks_dump(image: Path) -> dict[str, str]:
    done = subprocess.run(["cryptsetup", "luksDump", image], capture_output=True, text=True, check=True)
    return {
        name.strip(): value.strip() for name, _, value in (line.partition(":") for line in done.stdout.splitlines())
    }


def has_capability(number: int) -> bool:
    status = Path("/proc/self/status").read_text()
    return bool(int(status.partition("CapEff:\t")[2].split()[0], 16) >> number & 1)


def namespaces(pid: int | str) -> dict[str, str]:
    return {entry.name: str(entry.readlink()) for entry in Path(f"/proc/{pid}/ns").iterdir()}


def used_bytes(image: Path) -> bytes:
    """Everything an image holds, without its holes."""
    found = bytearray()
    with image.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        position = 0
        while position < end:
            try:
                start = os.lseek(file.fileno(), position, os.SEEK_DATA)
            except OSError:
                break
            position = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            found += os.pread(file.fileno(), position - start, start)
    return bytes(found)


async def test_what_was_written_is_there_after_closing_and_opening(
    host: Host, project_id: ProjectId, fill: Fill
) -> None:
    volumes = await host.start()
    info = await volumes.create(project_id, SIZE, fill)
    assert not info.is_open
    assert host.traces() == []

    mountpoint = await volumes.open(project_id)
    assert (mountpoint / "hello").read_text() == "written at creation"
    assert mountpoint.stat().st_mode & 0o777 == 0o700
    (mountpoint / "more").write_bytes(b"x" * MIB)
    assert await volumes.open(project_id) == mountpoint
    await volumes.close(project_id)
    await volumes.close(project_id)
    assert host.traces() == []
    assert not mountpoint.exists()

    await volumes.open(project_id)
    assert (mountpoint / "more").read_bytes() == b"x" * MIB
    assert host.keys.reasons == ["format", "open", "open"]


async def test_a_planted_canary_is_not_in_the_image_closed_or_open(
    host: Host, project_id: ProjectId, fill: Fill
) -> None:
    canary = os.urandom(16).hex().encode() * 16
    volumes = await host.start()
    await volumes.create(project_id, SIZE, fill)
    mountpoint = await volumes.open(project_id)
    (mountpoint / "canary").write_bytes(canary * 256)
    os.sync()
    assert canary not in used_bytes(host.image(project_id))
    await volumes.close(project_id)
    assert canary not in used_bytes(host.image(project_id))
    assert b"written at creation" not in used_bytes(host.image(project_id))
    # The probe itself works: with the key, the canary is there.
    assert canary in ((await volumes.open(project_id)) / "canary").read_bytes()


async def test_one_that_was_lost_is_made_again_under_the_key_that_is_left(
    host: Host, project_id: ProjectId, fill: Fill
) -> None:
    """It was encrypted anew: its first key is no more."""
    volumes = await host.start()
    await volumes.create(project_id, SIZE, fill)
    await volumes.open(project_id)
    await volumes.close(project_id)
    host.image(project_id).unlink()
    del host.keys.keys[project_id, 1]
    info = await volumes.create(project_id, SIZE, fill, material=2)
    assert info.material == 2
    assert (await volumes.open(project_id) / "hello").read_text() == "written at creation"
    assert [material for _, material in host.keys.keys] == [2]


async def test_another_projects_key_does_not_open_it(host: Host, project_id: ProjectId, fill: Fill) -> None:
    volumes = await host.start()
    await volumes.create(project_id, SIZE, fill)
    right, host.keys.keys[project_id, 1] = host.keys.keys[project_id, 1], new_key()
    with pytest.raises(InternalError, match="Invalid password"):
        await volumes.open(project_id)
    assert not volumes.is_open(project_id)
    assert host.traces() == []
    host.keys.keys[project_id, 1] = right
    await volumes.open(project_id)


async def test_a_swapped_image_does_not_open(host: Host, project_id: ProjectId, fill: Fill) -> None:
    volumes = await host.start()
    other = new_project_id()
    for each in (project_id, other):
        await volumes.create(each, SIZE, fill)
    host.image(other).rename(host.image(project_id))
    with pytest.raises(InternalError):
        await volumes.open(project_id)


async def test_what_is_said_about_encryption_is_what_cryptsetup_reads(
    host: Host, project_id: ProjectId, fill: Fill
) -> None:
    volumes = await host.start()
    info = await volumes.create(project_id, SIZE, fill)
    facts = luks_dump(host.image(project_id))
    assert info.cipher == f"{facts['Cipher name']}-{facts['Cipher mode']} {facts['MK bits']}" == "aes-xts-plain64 512"


async def test_a_damaged_header_is_not_called_encrypted(host: Host, project_id: ProjectId, fill: Fill) -> None:
    volumes = await host.start()
    await volumes.create(project_id, SIZE, fill)
    await host.kill(volumes)
    with host.image(project_id).open("r+b") as file:
        file.write(bytes(6))
    volumes = await host.start()
    with pytest.raises(InternalError, match="LUKS"):
        volumes.info(project_id)


async def test_the_daemon_has_no_rights_and_no_sight(host: Host, project_id: ProjectId, fill: Fill) -> None:
    volumes = await host.start()
    await volumes.create(project_id, SIZE, fill)
    await volumes.open(project_id)
    process = Path(f"/proc/{daemon_of(host, project_id).pid}")
    status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines() if ":\t" in line)
    uid = str(uid_of(project_id))
    assert status["Uid"].split() == [uid] * 4
    assert status["Gid"].split() == [uid] * 4
    assert status["Groups"].strip() == ""
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    its, ours = namespaces(process.name), namespaces("self")
    assert all(its[name] != ours[name] for name in ("mnt", "pid", "net", "ipc", "uts"))
    assert sorted(entry.name for entry in (process / "root").iterdir()) == [
        *("bin", "dev", "etc", "image", "lib", "lib64", "proc", "usr"),
    ]
    limits = (process / "limits").read_text()
    assert next(line.split()[4:6] for line in limits.splitlines() if line.startswith("Max core")) in (
        ["1", "1"],
        ["0", "0"],
    )
    key = host.keys.keys[project_id, 1]
    assert key not in (process / "cmdline").read_bytes()
    # PF_MEMALLOC_NOIO: it never waits for memory that only its own file system can free. The kernel grants it to
    # CAP_SYS_RESOURCE, which some containers withhold from root.
    flags = int((process / "stat").read_text().rpartition(") ")[2].split()[6])
    assert bool(flags & 0x0008_0000) == has_capability(24)


async def test_a_volume_in_use_is_not_closed(
    host: Host, project_id: ProjectId, fill: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloister.node.volumes.encrypted.UNMOUNT_PATIENCE_S", 0.05)
    volumes = await host.start()
    await volumes.create(project_id, SIZE, fill)
    mountpoint = await volumes.open(project_id)
    with (mountpoint / "hello").open(), pytest.raises(ConflictError):
        await volumes.close(project_id)
    assert volumes.is_open(project_id)
    assert (mountpoint / "hello").read_text() == "written at creation"
    await volumes.close(project_id)
    assert host.traces() == []


async def test_opening_while_it_closes_waits_and_succeeds(host: Host, project_id: ProjectId, fill: Fill) -> None:
    volumes = await host.start()
    await volumes.create(project_id, SIZE, fill)
    mountpoint = await volumes.open(project_id)
    for _ in range(5):
        _, again = await asyncio.gather(volumes.close(project_id), volumes.open(project_id))
        assert (again / "hello").read_text() == "written at creation"
        assert again == mountpoint


async def test_many_open_at_once(host: Host, fill: Fill) -> None:
    volumes = await host.start()
    projects = [new_project_id() for _ in range(8)]
    for project_id in projects:
        await volumes.create(project_id, SIZE, fill)
    await asyncio.gather(*(volumes.open(project_id) for project_id in projects))
    assert [info.project_id for info in volumes.opened()] == sorted(projects)
    await asyncio.gather(*(volumes.close(project_id) for project_id in projects))
    assert host.traces() == []


async def test_creating_fails_whole(host: Host, project_id: ProjectId, fill: Fill) -> None:
    def fail(mountpoint: Path) -> None:
        (mountpoint / "half").touch()
        raise RuntimeError("no template")

    volumes = await host.start()
    with pytest.raises(RuntimeError):
        await volumes.create(project_id, SIZE, fail)
    assert host.traces() == []
    assert list(host.paths.volumes.iterdir()) == []
    with pytest.raises(NotFoundError):
        await volumes.open(project_id)
    await volumes.create(project_id, SIZE, fill)
    await volumes.create(project_id, SIZE, fail)  # it exists: nothing is filled again
    assert ((await volumes.open(project_id)) / "hello").exists()


async def test_destroying_leaves_nothing(host: Host, project_id: ProjectId, fill: Fill) -> None:
    volumes = await host.start()
    await volumes.create(project_id, SIZE, fill)
    await volumes.open(project_id)
    await volumes.destroy(project_id)
    await volumes.destroy(project_id)
    assert host.traces() == []
    assert list(host.paths.volumes.iterdir()) == []


async def test_everything_synced_survives_the_death_of_the_daemon_under_load(
    host: Host, project_id: ProjectId, fill: Fill
) -> None:
    volumes = await host.start()
    await volumes.create(project_id, SIZE, fill)
    mountpoint = await volumes.open(project_id)
    writer = await start_writer(mountpoint)
    assert writer.stdout is not None
    synced = [int(await writer.stdout.readline()) for _ in range(50)]
    daemon_of(host, project_id).signal(signal.SIGKILL)

    assert await asyncio.wait_for(host.failed.get(), 5) == (project_id, "the volume daemon ended")
    synced += [int(text) for text in (await asyncio.wait_for(writer.stdout.read(), 10)).split()]
    assert await writer.wait() != 0
    await volumes.discard(project_id)
    assert host.traces() == []

    await volumes.open(project_id)
    for number in synced:
        assert (mountpoint / f"{number}").read_bytes() == b"%08d" % number * 1024
    (mountpoint / "after").write_text("writable again")


async def test_a_new_agent_adopts_what_is_open(host: Host, project_id: ProjectId, fill: Fill) -> None:
    volumes = await host.start()
    await volumes.create(project_id, SIZE, fill)
    mountpoint = await volumes.open(project_id)
    daemon = daemon_of(host, project_id)
    with (mountpoint / "hello").open() as file:
        await host.kill(volumes)
        volumes = await host.start()
        assert volumes.is_open(project_id)
        assert host.stopped == []
        assert file.read() == "written at creation"
    assert daemon_of(host, project_id) == daemon
    assert host.keys.reasons == ["format", "open"]
    # It is watched again …
    daemon.signal(signal.SIGKILL)
    assert (await asyncio.wait_for(host.failed.get(), 5))[0] == project_id
    await volumes.discard(project_id)
    # … and can be closed.
    await volumes.open(project_id)
    await volumes.close(project_id)
    assert host.traces() == []


@pytest.mark.parametrize("loss", ["daemon", "record", "mount", "everything"])
async def test_a_new_agent_takes_apart_what_is_broken(host: Host, project_id: ProjectId, fill: Fill, loss: str) -> None:
    volumes = await host.start()
    await volumes.create(project_id, SIZE, fill)
    mountpoint = await volumes.open(project_id)
    daemon = daemon_of(host, project_id)
    await host.kill(volumes)
    if loss in {"daemon", "everything"}:
        daemon.signal(signal.SIGKILL)
        daemon.join(5)
    if loss in {"mount", "everything"}:
        mounts.detach(mountpoint)
    if loss in {"record", "everything"}:
        (host.paths.run / "volumes" / f"{project_id}.json").unlink()

    volumes = await host.start()
    assert host.stopped == [project_id]
    assert not volumes.is_open(project_id)
    assert host.traces() == []
    assert ((await volumes.open(project_id)) / "hello").read_text() == "written at creation"


async def test_another_platforms_volumes_are_left_alone(
    host: Host, other_host: Host, project_id: ProjectId, fill: Fill
) -> None:
    volumes = await host.start()
    await volumes.create(project_id, SIZE, fill)
    mountpoint = await volumes.open(project_id)
    await other_host.start()
    assert other_host.traces() == []
    assert (mountpoint / "hello").exists()
    assert daemon_of(host, project_id).is_alive()


async def test_half_made_volumes_of_a_crash_are_removed(host: Host, project_id: ProjectId, fill: Fill) -> None:
    host.paths.volumes.mkdir(parents=True)
    (host.paths.volumes / f"{project_id}.unfinished").write_bytes(bytes(100))
    volumes = await host.start()
    assert list(host.paths.volumes.iterdir()) == []
    await volumes.create(project_id, SIZE, fill)


async def test_a_daemon_that_never_answers_is_given_up(
    host: Host, project_id: ProjectId, fill: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    volumes = await host.start()
    await volumes.create(project_id, SIZE, fill)
    command = qemu.daemon_command

    def sleeping(mark: str, uid: int, image: Path) -> list[str]:
        argv = command(mark, uid, image)
        return [*argv[: argv.index("/usr/bin/qemu-storage-daemon")], "/usr/bin/sleep", "60"]

    monkeypatch.setattr(qemu, "daemon_command", sleeping)
    monkeypatch.setattr("cloister.node.volumes.volumes._OPEN_TIMEOUT_S", 0.2)
    with pytest.raises(InternalError):
        await volumes.open(project_id)
    assert host.traces() == []
    monkeypatch.undo()
    await volumes.open(project_id)


async def test_a_sandbox_that_dies_while_it_is_made_leaves_nobody_with_the_key(
    host: Host, project_id: ProjectId, fill: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bwrap's child waits for its parent before it starts the daemon, and has the key and the session already."""
    volumes = await host.start()
    await volumes.create(project_id, SIZE, fill)
    dying = "import os, signal\nif os.fork():\n  os.kill(os.getpid(), signal.SIGKILL)\nos.close(5)\nsignal.pause()"

    def without_a_parent(mark: str, uid: int, image: Path) -> list[str]:
        del uid, image
        return ["python3", "-c", dying, f"type=fuse,id={mark},"]

    with monkeypatch.context() as patched:
        patched.setattr(qemu, "daemon_command", without_a_parent)
        with pytest.raises(InternalError, match="its sandbox ended"):
            await volumes.open(project_id)
    assert host.traces() == []
    await volumes.open(project_id)
