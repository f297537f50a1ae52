"""A volume that is encrypted anew: while it is used, cut off at every step, and afterwards."""

import asyncio
import contextlib
import mmap
import os
import signal
import subprocess
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from cloister.base.errors import ConflictError, InternalError
from cloister.base.ids import ProjectId
from cloister.node.commands import CopyState
from cloister.node.records import ProcessRecord
from cloister.node.volumes import Reencryptions, Volumes, reencryption
from cloister.node.volumes.qemu import marked
from tests.node.volumes.host import MIB, Fill, Host
from tests.node.volumes.test_luks import start_writer, used_bytes

pytestmark = pytest.mark.root

SIZE = 512 * MIB
PATIENCE_S = 60


class Place:
    def __init__(self, host: Host, volumes: Volumes) -> None:
        self.host, self.volumes = host, volumes
        self.copies = Reencryptions(volumes.driver, host.keys)

    async def until(self, project_id: ProjectId, *states: CopyState) -> None:
        await eventually(lambda: self.copies.info(project_id).state in states)

    async def renewed(self, project_id: ProjectId) -> None:
        """All the way, to key 2."""
        await self.copies.begin(project_id, 2, None)
        await self.until(project_id, CopyState.READY)
        await self.copies.complete(project_id)

    async def restart(self) -> None:
        await self.copies.close()
        await self.host.kill(self.volumes)
        self.volumes = await self.host.start()
        self.copies = Reencryptions(self.volumes.driver, self.host.keys)

    def daemons(self) -> list[ProcessRecord]:
        return [process for _, process in marked(f"type=fuse,id=copy-cloister-{self.host.paths.instance}-")]

    async def holds(self, project_id: ProjectId) -> bool:
        """What was written at its creation, as the volume's own key opens it."""
        text = (await self.volumes.open(project_id) / "hello").read_text()
        await self.volumes.close(project_id)
        return text == "written at creation"

    def opens(self, image: Path, project_id: ProjectId, material: int) -> bool:
        """By cryptsetup, which is not ours."""
        key = self.host.keys.keys[project_id, material]
        command = ["cryptsetup", "open", "--test-passphrase", "--batch-mode", "--key-file", "-", str(image)]
        return subprocess.run(command, input=key, capture_output=True, check=False).returncode == 0


@pytest.fixture
async def place(host: Host, project_id: ProjectId, fill: Fill) -> AsyncIterator[Place]:
    place = Place(host, await host.start())
    await place.volumes.create(project_id, SIZE, fill)
    yield place
    await place.copies.close()


async def eventually(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not is_so():  # noqa: ASYNC110 - what is waited for happens in a thread
            await asyncio.sleep(0.01)


def digest_of_volume_key(image: Path) -> bytes:
    """From the header: of the key that the blocks are encrypted with, whatever the passphrase."""
    with image.open("rb") as file:
        return os.pread(file.fileno(), 20, 112)


async def test_a_volume_is_encrypted_anew_while_it_is_written_to(place: Place, project_id: ProjectId) -> None:
    """Every file that a program synced is there afterwards, whole; the old key opens nothing; no trace is left."""
    image = place.host.image(project_id)
    old_digest = digest_of_volume_key(image)
    mountpoint = await place.volumes.open(project_id)
    writer = await start_writer(mountpoint)
    assert writer.stdout is not None
    await writer.stdout.readline()
    await place.copies.begin(project_id, 2, None)
    await place.until(project_id, CopyState.READY)
    for _ in range(20):
        synced = int(await writer.stdout.readline())
    assert (mountpoint / "hello").read_text() == "written at creation"
    writer.kill()
    await writer.wait()
    synced = max([synced, *(int(line) for line in (await writer.stdout.read()).split())])
    old_image = image.open("rb")

    await place.volumes.close(project_id)
    await place.copies.complete(project_id)
    assert place.copies.info(project_id).state is CopyState.DONE
    assert place.volumes.info(project_id).material == 2
    assert place.host.traces() == []
    assert sorted(path.name for path in place.host.paths.volumes.iterdir()) == [image.name]

    # The old image has lost its key slots, and the new one knows nothing of the old key.
    with old_image:
        assert old_image.read(6) != b"LUKS\xba\xbe"
    assert place.opens(image, project_id, 2)
    assert not place.opens(image, project_id, 1)
    assert digest_of_volume_key(image) != old_digest, "another volume key, not only another passphrase"

    mountpoint = await place.volumes.open(project_id)
    for number in range(synced + 1):
        assert (mountpoint / str(number)).read_bytes() == b"%08d" % number * 1024
    assert (mountpoint / "hello").read_text() == "written at creation"
    await place.volumes.close(project_id)


async def test_what_is_written_last_is_taken_over_by_the_switch(
    place: Place, project_id: ProjectId, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the copy's last look and the switch, when nothing else would take it over."""
    rests = threading.Event()

    def until_the_last(job: reencryption._Job, seconds: float) -> None:
        rests.set()
        assert job.is_last.wait(PATIENCE_S)

    monkeypatch.setattr(reencryption._Job, "wait", until_the_last)
    mountpoint = await place.volumes.open(project_id)
    await place.copies.begin(project_id, 2, None)
    await eventually(rests.is_set)
    (mountpoint / "late").write_bytes(late := os.urandom(4 * MIB))
    await place.volumes.close(project_id)
    await place.copies.complete(project_id)
    assert (await place.volumes.open(project_id) / "late").read_bytes() == late
    await place.volumes.close(project_id)


async def test_no_block_of_the_old_image_is_in_the_new_one(place: Place, project_id: ProjectId) -> None:
    old = used_bytes(place.host.image(project_id))
    await place.renewed(project_id)
    new = used_bytes(place.host.image(project_id))
    blocks = {old[at : at + 512] for at in range(0, len(old), 512)} - {bytes(512)}
    assert len(blocks) > 1000
    assert not any(new[at : at + 512] in blocks for at in range(2048, len(new), 512))


async def test_with_the_old_key_the_old_image_cannot_be_had_back(place: Place, project_id: ProjectId) -> None:
    """Somebody who had copied the old header, with its key slots, opens the new image with it: to noise."""
    image = place.host.image(project_id)
    with image.open("rb") as file:
        stolen = file.read(2 * MIB)
    await place.renewed(project_id)
    with image.open("r+b") as file:
        file.write(stolen)
    place.volumes.driver._headers.clear()  # type: ignore[attr-defined]
    with pytest.raises((InternalError, OSError)):
        await place.volumes.open(project_id)


@pytest.mark.parametrize("is_killed", [False, True])
async def test_a_copy_that_was_cut_off_goes_on_where_it_was(
    place: Place, project_id: ProjectId, is_killed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a stop of the agent, or by kill -9 of what holds the keys: the volume is what it was, and what was taken over before
    is read and compared, not written again."""
    mountpoint = await place.volumes.open(project_id)
    (mountpoint / "large").write_bytes(data := os.urandom(20 * MIB))
    await place.volumes.close(project_id)
    await place.copies.begin(project_id, 2, 20 * MIB)
    await eventually(lambda: place.copies.info(project_id).passed_bytes >= 10 * MIB)
    if is_killed:
        for process in place.daemons():
            process.signal(signal.SIGKILL)
        await place.until(project_id, CopyState.FAILED)
        assert place.copies.info(project_id).problem
    await place.restart()
    assert place.daemons() == []
    assert place.volumes.info(project_id).material == 1
    assert await place.holds(project_id)

    written = 0
    write = os.pwrite

    def counted(file: int, buffer: memoryview, offset: int) -> int:
        nonlocal written
        written += len(buffer)
        return write(file, buffer, offset)

    assert place.volumes.driver.copied_bytes(project_id) > 8 * MIB
    monkeypatch.setattr(os, "pwrite", counted)
    await place.renewed(project_id)
    assert written < place.host.image(project_id).stat().st_blocks * 512 - 8 * MIB
    assert (await place.volumes.open(project_id) / "large").read_bytes() == data
    await place.volumes.close(project_id)


async def test_what_a_killed_agent_leaves_is_ended_by_the_next(place: Place, project_id: ProjectId) -> None:
    """A daemon with two keys, and two mounts, of which there is no record."""
    keys = [await place.host.keys.unwrap(project_id, "test", material=material) for material in (1, 2)]
    with contextlib.ExitStack() as held:
        held.enter_context(place.volumes.driver.copying(project_id, keys[0], keys[1], 2))
        left = held.pop_all()  # as if nobody had been there to leave it
    for key in keys:
        os.close(key)
    assert len(place.daemons()) == 2
    await place.restart()
    assert place.host.traces() == []
    with contextlib.suppress(OSError):
        left.close()
    await place.renewed(project_id)
    assert await place.holds(project_id)


class CutError(Exception):
    """The machine is gone."""


@pytest.mark.parametrize(("at", "material"), [("os.fsync", 1), ("sync_directory", 2), ("os.urandom", 2)])
async def test_cut_off_at_any_step_of_the_switch_the_volume_has_one_key_and_its_data(
    place: Place, project_id: ProjectId, at: str, material: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old one before the rename, the new one after it, and the next attempt makes it whole."""

    def cut(*_: object) -> None:
        raise CutError

    await place.copies.begin(project_id, 2, None)
    await place.until(project_id, CopyState.READY)
    await place.copies.stop(project_id)
    with monkeypatch.context() as patch:
        patch.setattr(f"cloister.node.volumes.encrypted.{at}", cut)
        with pytest.raises(CutError):
            place.volumes.driver.complete(project_id)
    await place.restart()
    assert place.volumes.info(project_id).material == material
    assert place.opens(place.host.image(project_id), project_id, material)
    assert not place.opens(place.host.image(project_id), project_id, 3 - material)
    assert await place.holds(project_id)
    await place.copies.begin(project_id, 2, None)
    if material == 1:
        await place.until(project_id, CopyState.READY)
        await place.copies.complete(project_id)
    assert place.volumes.info(project_id).material == 2
    assert await place.holds(project_id)


async def test_a_block_that_is_not_what_was_written_stops_the_switch(
    place: Place, project_id: ProjectId, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.pwrite

    def flipped(file: int, buffer: memoryview, offset: int) -> int:
        return write(file, memoryview(mmap_of(bytes([buffer[0] ^ 1]) + bytes(buffer[1:]))), offset)

    monkeypatch.setattr(os, "pwrite", flipped)
    await place.copies.begin(project_id, 2, None)
    await place.until(project_id, CopyState.FAILED)
    with pytest.raises(ConflictError):
        await place.copies.complete(project_id)
    assert place.volumes.info(project_id).material == 1
    assert place.host.traces() == []


def mmap_of(data: bytes) -> mmap.mmap:
    """Direct I/O wants aligned memory."""
    memory = mmap.mmap(-1, len(data))
    memory[:] = data
    return memory


async def test_a_copy_that_is_given_up_leaves_nothing(place: Place, project_id: ProjectId) -> None:
    await place.copies.begin(project_id, 2, 1 * MIB)
    await eventually(lambda: place.copies.info(project_id).passed_bytes > 0)
    await place.copies.stop(project_id, is_dropped=True)
    assert place.copies.info(project_id).state is CopyState.NONE
    assert [path.name for path in place.host.paths.volumes.iterdir()] == [place.host.image(project_id).name]
    assert place.host.traces() == []
    assert await place.holds(project_id)
