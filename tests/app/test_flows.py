"""The flow matrix: the table and its page agree, and a difference between it and the world is found."""

import os
import socket
import tempfile
import threading
from importlib import resources
from pathlib import Path

import msgspec
import pytest

from cloister.app import flows
from cloister.app.flows import USERS, Difference, Flow, decide, markdown, strange_listeners, strange_sockets, table
from cloister.base.identities import COMPUTE_UID_FIRST
from cloister.base.rpc.wire import LENGTH, Reply, frame
from cloister.base.settings import Paths
from tests.house.source import ROOT


def test_the_page_shows_the_table() -> None:
    assert markdown(table()) in (ROOT / "docs" / "flows.md").read_text()


def test_the_kernel_is_asked_about_everything_that_the_paths_name_as_a_socket() -> None:
    """A socket of a service that is added to `Paths` has a row here."""
    named = {name for name in vars(Paths(Path("/nowhere"))) if name.endswith("_socket")}
    assert named <= {flow.place for flow in table()}


def test_nobody_but_the_broker_reads_the_root_key_and_nobody_at_all_is_anybody() -> None:
    assert {flow.place: flow.may for flow in table()}["root_key"] == {"keys"}
    assert not any("anybody" in flow.may for flow in table())


@pytest.mark.parametrize("user", USERS)
def test_more_than_the_table_gives_is_a_failure_and_so_is_less(user: str) -> None:
    flow = Flow("agent_socket", "call", frozenset({"api"}), "")
    as_it_should = {each: each == "api" for each in USERS}
    assert decide(flow, as_it_should) == []
    (difference,) = decide(flow, as_it_should | {user: not as_it_should[user]})
    assert user in difference.seen
    assert difference.is_open is (user != "api")


@pytest.mark.parametrize(
    "line",
    [
        "agent_socket\tcall\tyes\tno",
        "agent_socket\tcall\tyes\tno\tno\tno\tno\tperhaps\twhy",
        "x\tguess" + "\tno" * 6 + "\t",
    ],
)
def test_a_table_that_cannot_be_read_is_no_rule(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = "place\tkind\t" + "\t".join(USERS) + "\twhy"
    (tmp_path / "flows.tsv").write_text(f"{header}\n{line}\n")
    monkeypatch.setattr(resources, "files", lambda _package: tmp_path)
    with pytest.raises(ValueError, match="flows"):
        table()


def test_a_socket_that_nobody_expects_is_found(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    for name in ("agent_run", "keys_run", "api_run", "egress_run"):
        directory = tmp_path / name
        directory.mkdir()
        setattr(paths, name, directory)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "keys_run" / "back-door.sock"))
        (difference,) = strange_sockets(paths, set())
        assert difference.is_open
        assert "back-door.sock" in difference.seen
        assert strange_sockets(paths, {str(tmp_path / "keys_run" / "back-door.sock")}) == []


@pytest.mark.parametrize(
    ("uid", "state", "found"),
    [
        (COMPUTE_UID_FIRST, "0A", ["uid 1900000000 listens on 127.0.0.1:5432"]),
        (COMPUTE_UID_FIRST, "01", []),
        (998, "0A", ["uid 998 listens on 127.0.0.1:5432"]),
        (0, "0A", []),
        (65534, "0A", []),
    ],
)
def test_who_listens_as_a_compute_is_found(uid: int, state: str, found: list[str]) -> None:
    """Neither root, which opens the two ports, nor a stranger's program, nor a connection."""
    line = f"   0: 0100007F:1538 00000000:0000 {state} 00000000:00000000 00:00000000 00000000  {uid}        0 4242 1 0"
    assert strange_listeners(f"  sl  local_address ...\n{line}\n", {998}) == [
        Difference(each, is_open=True) for each in found
    ]


@pytest.mark.parametrize("answers", [True, False])
def test_a_call_is_in_if_it_is_answered(answers: bool, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                if answers:
                    connection.recv(LENGTH.size)
                    connection.sendall(frame(msgspec.msgpack.encode(Reply(1))))

        thread = threading.Thread(target=serve)
        thread.start()
        assert flows._call(tmp_path / "s", Flow("s", "call", frozenset(), "")) is answers
        thread.join()


@pytest.mark.root
def test_a_child_that_became_somebody_is_refused_what_only_root_may() -> None:
    """What `attempt` says of a file is what the file's mode says, and the process that asks stays root."""
    with tempfile.TemporaryDirectory() as directory:
        paths = Paths(Path(directory))
        paths.state_dir.chmod(0o755)
        paths.secrets.mkdir(mode=0o755)
        paths.root_key.write_text("secret")
        for mode, may in ((0o600, False), (0o644, True)):
            paths.root_key.chmod(mode)
            seen = flows.attempt("anybody", [Flow("root_key", "read", frozenset(), "")], paths)
            assert seen == {"root_key": may}
    assert os.geteuid() == 0
