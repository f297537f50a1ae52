import os
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloister.node.sandbox.mounts import Room

pytestmark = pytest.mark.root

UID, GID = 1_999_000_001, 1_999_000_002


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    data = tmp_path / "volume"
    data.mkdir()
    room = Room(tmp_path / "rooms" / "ep-a-b-1")
    room.prepare(data, uid=UID, shared_gid=GID, memory_bytes=1024**2)
    yield room
    room.clear()


def test_nothing_in_it_can_be_executed_or_mapped_as_code(room: Room) -> None:
    for place in (room.data, room.shared_memory, room.sockets):
        flags = os.statvfs(place).f_flag
        assert flags & os.ST_NOEXEC, place
        assert flags & os.ST_NOSUID, place
        program = place / "true"
        program.write_bytes(Path("/usr/bin/true").read_bytes())
        program.chmod(0o755)
        with pytest.raises(PermissionError):
            subprocess.run([program], check=True)


def test_a_symbolic_link_where_the_socket_should_be_leads_nowhere(room: Room, tmp_path: Path) -> None:
    """The gateway follows what it finds there; another tenant's socket must not be found."""
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as gateway:
        other.bind(str(tmp_path / "other"))
        other.listen()
        link = room.sockets / ".s.PGSQL.5432"
        link.symlink_to(tmp_path / "other")
        with pytest.raises(OSError, match="symbolic links"):
            gateway.connect(str(link))


def test_only_the_shared_group_gets_to_the_sockets(room: Room) -> None:
    outer, inner = room.path.stat(), room.sockets.stat()
    assert (outer.st_uid, outer.st_gid, stat.S_IMODE(outer.st_mode)) == (0, GID, 0o710)
    assert (inner.st_uid, inner.st_gid, stat.S_IMODE(inner.st_mode)) == (UID, GID, 0o710)
    assert stat.S_IMODE(room.shared_memory.stat().st_mode) == 0o700


def test_it_holds_no_more_than_the_compute_may_have(room: Room) -> None:
    with pytest.raises(OSError, match="No space left"):
        (room.shared_memory / "much").write_bytes(bytes(2 * 1024**2))


def test_clearing_it_twice_leaves_the_data_and_nothing_else(room: Room, tmp_path: Path) -> None:
    (room.data / "row").touch()
    room.clear()
    room.clear()
    assert not room.path.exists()
    assert (tmp_path / "volume" / "row").exists()
