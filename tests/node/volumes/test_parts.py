"""The parts of a volume that can be judged without a device."""

import itertools
import os
import signal
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from cloister.base.errors import InternalError, PreconditionError
from cloister.base.ids import ProjectId, new_project_id
from cloister.base.settings import Settings
from cloister.node import children
from cloister.node.volumes import choose_driver, dmcrypt, luks, mounts, pair, qemu
from cloister.node.volumes.encrypted import LuksDriver
from cloister.node.volumes.model import Attached, Note, Opener
from cloister.node.volumes.plain import PlainDriver

PROJECT = ProjectId("calm-forest-12345678")

RANDOM_UUID = b"c2e61754-fb02-44c8-a76e-457b277ee1ba"


def header(
    version: int = 1,
    magic: bytes = b"LUKS\xba\xbe",
    uuid: bytes = RANDOM_UUID,
    cipher: tuple[bytes, bytes] = (b"aes", b"xts-plain64"),
    key_bytes: int = 64,
) -> bytes:
    return struct.pack(
        ">6sH32s32s32sII20s32sI40s",
        *(magic, version, *cipher, b"sha256", 4096, key_bytes, b"digest", b"salt", 1000, uuid),
    ) + bytes(300)


def test_a_header_says_its_cipher_and_key_size() -> None:
    assert str(luks.parse_header(header())) == "aes-xts-plain64 512"
    assert luks.parse_header(header()).payload_offset == 2 * 1024**2


@pytest.mark.parametrize(
    ("cipher", "key_bytes", "said"),
    [
        ((b"aes", b"xts-plain64"), 32, "aes-xts-plain64 256"),
        ((b"aes", b"cbc-essiv:sha256"), 64, "aes-cbc-essiv:sha256 512"),
        ((b"serpent", b"xts-plain64"), 64, "serpent-xts-plain64 512"),
        ((b"cipher_null", b"ecb"), 16, "cipher_null-ecb 128"),
    ],
)
def test_what_was_encrypted_otherwise_is_said_to_be(cipher: tuple[bytes, bytes], key_bytes: int, said: str) -> None:
    """An image that another hand put there, or one from before: what we format today is never assumed."""
    assert str(luks.parse_header(header(cipher=cipher, key_bytes=key_bytes))) == said


@pytest.mark.parametrize("material", [1, 2, 2**48 - 1])
def test_a_header_says_which_key_it_wants(material: int) -> None:
    command = luks.format_command(Path("/volumes/one.img"), material)
    uuid = command[command.index("--uuid") + 1]
    assert luks.parse_header(header(uuid=uuid.encode())).material == material


def test_an_image_from_before_wants_the_first_key() -> None:
    assert luks.parse_header(header(uuid=RANDOM_UUID)).material == 1


@pytest.mark.parametrize("material", [0, -1, 2**48])
def test_a_material_that_no_header_can_say_is_refused(material: int) -> None:
    with pytest.raises(InternalError):
        luks.format_command(Path("/volumes/one.img"), material)


@pytest.mark.parametrize(
    "data", [b"", b"LUKS\xba\xbe", bytes(600), header(version=2), header(magic=b"SKUL\xba\xbe"), header(uuid=b"")]
)
def test_what_is_no_header_is_not_called_encrypted(data: bytes) -> None:
    with pytest.raises(InternalError):
        luks.parse_header(data)


def test_no_key_is_on_a_command_line() -> None:
    """Keys are descriptors: every command names /proc/self/fd/3, and nothing takes a key from elsewhere."""
    image = Path("/volumes/one.img")
    for command in (
        luks.format_command(image),
        dmcrypt.open_command(image, "cloister-one"),
        qemu.daemon_command("cloister-one", 2_000_000_000, image),
    ):
        assert sum("/proc/self/fd/3" in word for word in command) == 1


def test_a_flush_of_a_volume_is_one_of_its_image() -> None:
    """Between the file that is exported and the image there is the cipher and nothing else, and no `cache.no-flush`."""
    one, two = Path("/volumes/one.img"), Path("/volumes/two.img")
    commands = qemu.daemon_command("m", 2_000_000_000, one), pair.pair_command("m", 2_000_000_000, one, two)
    assert [
        [layer for option, layer in itertools.pairwise(command) if option == "--blockdev"] for command in commands
    ] == [
        [
            "driver=file,node-name=image,filename=/image,aio=threads,discard=unmap",
            "driver=luks,node-name=clear,file=image,key-secret=key,discard=unmap",
        ],
        [
            "driver=file,node-name=old-image,filename=/old,aio=threads,read-only=on,locking=off",
            "driver=luks,node-name=old,file=old-image,key-secret=old-key,read-only=on",
            "driver=file,node-name=new-image,filename=/new,aio=threads",
            "driver=luks,node-name=new,file=new-image,key-secret=new-key",
        ],
    ]


def test_dm_crypt_opens_the_same_image() -> None:
    assert dmcrypt.open_command(Path("/v/one.img"), "cloister-0-one") == [
        *("cryptsetup", "open", "--type", "luks", "--batch-mode", "--key-file", "/proc/self/fd/3"),
        *("--allow-discards", "--perf-no_read_workqueue", "--perf-no_write_workqueue"),
        *("/v/one.img", "cloister-0-one"),
    ]
    assert dmcrypt.close_command("cloister-0-one") == ["cryptsetup", "close", "cloister-0-one"]


def test_dm_crypt_is_offered_where_the_kernel_has_device_mapper(tmp_path: Path) -> None:
    misc = tmp_path / "misc"
    misc.write_text(" 10 fuse\n236 device-mapper\n237 loop-control\n")
    assert dmcrypt.missing(tmp_path, misc) == ["device-mapper in the kernel"]
    (tmp_path / "control").touch()
    assert dmcrypt.missing(tmp_path, misc) == []
    misc.write_text("237 loop-control\n")
    assert dmcrypt.missing(tmp_path, misc) == ["device-mapper in the kernel"]


def test_dm_crypt_finds_only_its_own_mappings(tmp_path: Path) -> None:
    settings = Settings(state_dir=str(tmp_path / "state"))
    opener = dmcrypt.DmCryptOpener(settings.paths, tmp_path)
    (tmp_path / f"cloister-{settings.paths.instance}-{PROJECT}").touch()
    (tmp_path / f"cloister-00000000-{new_project_id()}").touch()
    (tmp_path / "control").touch()
    assert opener.leftovers() == {PROJECT}
    assert not opener.is_intact(PROJECT, Attached(device=str(tmp_path / "other")))


def settings_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **lacking: list[str]) -> Settings:
    monkeypatch.setattr(dmcrypt, "missing", lambda: lacking["dm"])
    monkeypatch.setattr(qemu, "missing", lambda: lacking["qemu"])
    return Settings(state_dir=str(tmp_path))


def test_dm_crypt_is_taken_where_it_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_driver(settings_with(tmp_path, monkeypatch, dm=[], qemu=[])).opener_name == "dm-crypt"


def test_a_host_without_any_opener_is_told_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_with(tmp_path, monkeypatch, dm=["device-mapper in the kernel"], qemu=["bwrap", "/dev/fuse"])
    with pytest.raises(PreconditionError) as refused:
        choose_driver(settings)
    assert refused.value.public == (
        "no way to open an encrypted volume on this host: dm-crypt needs device-mapper in the kernel; "
        "qemu-storage-daemon needs bwrap, /dev/fuse"
    )


def test_an_opener_that_was_asked_for_is_not_replaced_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings_with(tmp_path, monkeypatch, dm=["device-mapper in the kernel"], qemu=[])
    with pytest.raises(PreconditionError):
        choose_driver(Settings(state_dir=str(tmp_path), opener="dm-crypt"))


def test_daemons_have_uids_that_no_compute_has() -> None:
    uids = {qemu.uid_of(new_project_id()) for _ in range(200)}
    assert all(2_000_000_000 <= uid < 2_100_000_000 for uid in uids)
    assert len(uids) > 190


def test_mountinfo_is_read_with_its_escapes() -> None:
    line = r"36 35 98:0 / /run/a\040b\134c rw,noatime shared:1 master:2 - xfs /dev/loop\0401 rw,attr2"
    assert mounts.parse_mountinfo(line) == [mounts.Mount(Path("/run/a b\\c"), "98:0", "xfs", "/dev/loop 1")]


def test_a_plain_volume_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    driver = PlainDriver(Settings(state_dir=str(tmp_path)).paths)
    driver.prepare()
    assert "NOTHING IS ENCRYPTED" in caplog.text
    assert (driver.cipher(PROJECT), driver.ciphers()) == ("none", "none")


def test_a_plain_volume_has_a_size_while_files_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers remove theirs, and so does whoever empties the trash."""
    driver = PlainDriver(Settings(state_dir=str(tmp_path)).paths)
    driver.prepare()

    def fill(directory: Path) -> None:
        (directory / "stays").write_text("x" * 9000)

    driver.create(PROJECT, 1, -1, fill)
    size = driver.image_bytes(PROJECT)
    really = os.walk

    def walk(top: Path) -> Iterator[tuple[str, list[str], list[str]]]:
        for directory, directories, files in really(top):
            yield str(directory), directories, [*files, "gone"]

    monkeypatch.setattr(os, "walk", walk)
    assert driver.image_bytes(PROJECT) == size > 0


def test_a_plain_volume_is_made_whole_or_not_at_all(tmp_path: Path) -> None:
    driver = PlainDriver(Settings(state_dir=str(tmp_path)).paths)
    driver.prepare()

    def fail(directory: Path) -> None:
        (directory / "half").touch()
        raise RuntimeError("no template")

    with pytest.raises(RuntimeError):
        driver.create(PROJECT, 1, -1, fail)
    assert not driver.exists(PROJECT)
    driver.create(PROJECT, 1, -1, lambda directory: (directory / "whole").touch())
    volume = driver.open(PROJECT, -1)
    assert [entry.name for entry in Path(volume.mountpoint).iterdir()] == ["whole"]
    driver.close(volume)
    driver.destroy(PROJECT)
    driver.destroy(PROJECT)
    assert not driver.exists(PROJECT)


def test_what_starts_while_an_opening_is_interrupted_is_killed_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interruption knows the launcher alone; who the daemon is, is told a moment later."""
    paths = Settings(state_dir=str(tmp_path)).paths
    launcher, daemon = (children.spawn(["sleep", "60"], {}) for _ in range(2))

    class Interrupted:
        name = "interrupted"

        def prepare(self) -> None: ...
        def detach(self, project_id: ProjectId, attached: Attached) -> None: ...
        def attach(self, project_id: ProjectId, image: Path, key: int, note: Note) -> tuple[Attached, int]:
            del image, key
            note(Attached(launcher=launcher))
            driver.interrupt(project_id)
            note(Attached(launcher=launcher, daemon=daemon))
            raise InternalError("no daemon answers")

    monkeypatch.setattr(mounts, "unmount", lambda *_arguments, **_patience: None)
    driver = LuksDriver(paths, cast("Opener", Interrupted()))
    driver.prepare()
    (paths.volumes / f"{PROJECT}.img").touch()
    with pytest.raises(InternalError):
        driver.open(PROJECT, -1)
    try:
        assert launcher.join(10) == -signal.SIGKILL
        assert daemon.join(10) == -signal.SIGKILL
    finally:
        for process in (launcher, daemon):
            process.signal(signal.SIGKILL)
