"""rsyslog and syslog-ng as receivers, configured as docs/audit.md says, and killed: each event is in their file in the end.

Debian's packages of the two exclude each other, so a machine has one of them, and runs its test. A test's receiver is a child of
the test, in the test's directory; the one that may run on the machine is left alone.
"""

import asyncio
import contextlib
import json
import re
import shutil
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from cloister.trust.audit import Action, Event
from cloister.trust.audit.events import VALUE_CHARS_MAX
from cloister.trust.audit.forwarder import BATCH_ROWS
from tests.fix_database import DatabaseAs
from tests.trust.audit.test_forwarder import Receiver, World, sequence, syslog
from tests.trust.sentinel.receiver import make_certificate

DOCUMENT: Final = Path(__file__).parents[3] / "docs" / "audit.md"

COMMANDS: Final = {
    "rsyslog": ["rsyslogd", "-n", "-f", "configuration", "-i", "pid"],
    "syslog-ng": ["syslog-ng", "-F", "--no-caps", "-f", "configuration", "-R", "persist", "-p", "pid", "-c", "control"],
}

PATIENCE_S: Final = 20.0

LONG: Final = {f"name{each}": "é" * VALUE_CHARS_MAX for each in range(5)}
# Six characters each in JSON, and twice in a line: some 30 kB, where rsyslog takes 8 unless told.


class Daemon:
    """One of the two. Where docs/audit.md has paths of the system's and a port, this has its own."""

    def __init__(self, kind: str, directory: Path) -> None:
        self._directory = directory
        self._command = [
            str(directory / each) if "-" not in each and i else each for i, each in enumerate(COMMANDS[kind])
        ]
        self.written = directory / "cloister.ndjson"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        make_certificate(directory / "both.pem")
        certificate, begin, key = (directory / "both.pem").read_text().partition("-----BEGIN PRIVATE")
        (directory / "server.pem").write_text(certificate)
        (directory / "ca.pem").write_text(certificate)
        (directory / "server.key").write_text(begin + key)
        (said,) = re.findall(rf"```{kind}\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
        for theirs, ours in (
            ("/etc/ssl/cloister", str(directory)),
            ("/var/log", str(directory)),
            ("6514", str(self.port)),
        ):
            assert theirs in said
            said = said.replace(theirs, ours)
        (directory / "configuration").write_text("@version: 3.38\n" + said if kind == "syslog-ng" else said)

    @contextlib.asynccontextmanager
    async def up(self) -> AsyncIterator[asyncio.subprocess.Process]:
        with (self._directory / "output").open("ab") as output:
            process = await asyncio.create_subprocess_exec(*self._command, stdout=output, stderr=output)
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not await asyncio.to_thread(self._answers):
                    assert process.returncode is None, (self._directory / "output").read_text()
                    await asyncio.sleep(0.02)
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            (self._directory / "pid").unlink(missing_ok=True)

    def _answers(self) -> bool:
        context = ssl.create_default_context(cafile=self._directory / "ca.pem")
        try:
            with socket.create_connection(("127.0.0.1", self.port), 5) as plain:
                context.wrap_socket(plain, server_hostname="127.0.0.1").close()
        except OSError:
            return False
        return True

    def events(self) -> list[dict[str, Any]]:
        """As they lie in its file; the line that it was killed in is none."""
        lines = self.written.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("}\n")]

    async def until(self, seq: int) -> None:
        """This event lies in its file."""
        wanted = re.compile(rb'"sequence":%d\b.*\n' % seq)
        async with asyncio.timeout(PATIENCE_S):
            while not self.written.exists() or not wanted.search(self.written.read_bytes()):  # noqa: ASYNC110 - another process does it
                await asyncio.sleep(0.002)


@pytest.mark.parametrize("kind", COMMANDS)
async def test_a_receiver_that_is_killed_has_every_event_in_the_end(
    kind: str, database_as: DatabaseAs, tmp_path: Path
) -> None:
    """Killed in a batch, away while others were recorded, and started again; nothing is cut, and an id is one event."""
    if shutil.which(COMMANDS[kind][0]) is None:
        pytest.skip(f"{kind} is not here")
    daemon = Daemon(kind, tmp_path)
    receiver = Receiver(tmp_path / "both.pem")
    receiver.port = daemon.port
    world = World(database_as, tmp_path / "exports.json", receiver)
    target = syslog(receiver, tmp_path / "ca.pem")
    await world.append(1, Event(action=Action.PROJECT_GET, actor="user:u", details=LONG))
    await world.append(BATCH_ROWS - 1)
    async with daemon.up() as process:
        forwarder = await world.begin(target)
        sending = asyncio.create_task(forwarder.step())
        await daemon.until(1)
        process.kill()
        await sending
    await world.append(BATCH_ROWS + 1)
    await (await world.begin(target)).step()
    assert (await world.at(target)).state.startswith("export.failed since ")
    async with daemon.up():
        await (await world.begin(target)).step()
        last = BATCH_ROWS * 2 + 1
        assert (await world.at(target)).seq == last
        await daemon.until(last)
    events = daemon.events()
    assert list(dict.fromkeys(sequence(events))) == list(range(1, last + 1))
    assert len({each["metadata"]["uid"] for each in events}) == last
