"""The example application, as its README starts it, on a platform, in a real browser: from sign-up to nothing left."""

import hashlib
import json
import os
import queue
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.instance import Instance

pytestmark = pytest.mark.root

EXAMPLE = Path(__file__).parents[2] / "examples" / "database_per_user_rag"
NODE_MODULES = Path(__file__).parents[1] / "clients" / "node_modules"
JOURNEY = Path(__file__).with_name("rag_journey.js")
OVEN = "If the oven shows error E4, the door sensor is dirty: wipe it, and start the oven again."


@pytest.fixture(scope="session")
def packages() -> Path:
    """What the example's lock file names, beside the virtual environment that runs the tests."""
    lock = EXAMPLE / "requirements.lock"
    directory = Path(sys.prefix) / f"database-per-user-rag-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
    if not directory.exists():
        under_way = directory.with_suffix(".new")
        shutil.rmtree(under_way, ignore_errors=True)
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps",
             "--no-compile", "--require-hashes", "--target", under_way, "-r", lock],
            check=True, capture_output=True, timeout=300,
        )  # fmt: skip
        under_way.rename(directory)
    return directory


@pytest.fixture
def origin(instance: Instance, packages: Path, tmp_path: Path) -> Iterator[str]:
    """Where the application answers, with an API key of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{probe.getsockname()[1]}"
    log = tmp_path / "application.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "rag"],
            cwd=EXAMPLE,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(packages),
                "CLOISTER_API_HOST": f"https://db.localhost:{instance.https_port}/api/v2",
                "CLOISTER_API_KEY": instance.api("POST", "/api_keys", {"key_name": "application"})["key"],
                "CLOISTER_CA_FILE": str(instance.paths.ca_file),
                "RAG_DATA": str(tmp_path / "data"),
                "RAG_LISTEN": listen,
                "RAG_ORIGIN": f"http://{listen}",
            },
            stdout=file,
            stderr=file,
        )
    try:
        deadline = time.monotonic() + 60
        while not _answers(f"http://{listen}/log-in"):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield f"http://{listen}"
    except Exception as error:
        error.add_note(log.read_text())
        raise
    finally:
        process.terminate()
        process.wait(20)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=10).status_code == 200
    except httpx.TransportError:
        return False


class Browser:
    """The journey's process: what it says, in turn."""

    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            ["node", JOURNEY, *arguments],
            env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/root"), "NODE_PATH": str(NODE_MODULES)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._said: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._said.put(line)
        self._said.put("")

    def says(self) -> Any:
        line = self._said.get(timeout=150)
        if not line:
            assert self._process.stderr is not None
            raise AssertionError(self._process.stderr.read())
        return json.loads(line)

    def go_on(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate(timeout=20)
        self._reader.join(20)


def pdf(*sentences: str) -> bytes:
    """A page of text, as a PDF in its smallest form."""
    shown = " ".join(f"({sentence}) Tj T*" for sentence in sentences)
    stream = f"BT /F1 12 Tf 14 TL 72 720 Td {shown} ET".encode()
    font = b"<< /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >>"
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R /Resources " + font + b" >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
    ]
    document, places = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(document))
        document += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    return document + (
        b"xref\n0 %d\n0000000000 65535 f \n%strailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n"
        % (len(objects) + 1, table, len(objects) + 1, len(document))
    )


def users_projects(instance: Instance) -> list[str]:
    found = instance.api("GET", "/projects?limit=400&search=user-")["projects"]
    return [each["id"] for each in found if each["name"].startswith("user-")]


def test_from_sign_up_to_nothing_left(instance: Instance, origin: str, tmp_path: Path) -> None:
    if shutil.which("chromium") is None or not NODE_MODULES.exists():
        pytest.fail("Chromium and the packages of tests/clients are needed: scripts/test installs them")
    report = tmp_path / "costs.pdf"
    report.write_bytes(pdf("The bakery bought a refrigerator in March.", "The new refrigerator cost 2400 euros."))
    screenshot = os.environ.get("RAG_SCREENSHOT", "")
    browser = Browser(origin, str(EXAMPLE / "samples" / "handbook.md"), str(report), screenshot)
    try:
        oven = browser.says()
        assert oven["said"] == OVEN
        assert "handbook.md · When something goes wrong · passage" in oven["sources"][0]
        assert float(oven["sources"][0].rpartition("\n")[2].split()[-1]) > 0.4
        assert OVEN in oven["quotes"][0]
        cost = browser.says()
        assert "2400 euros" in cost["said"]
        assert "costs.pdf · page 1" in cost["sources"][0]
        nothing = browser.says()
        assert (nothing["said"], nothing["sources"]) == ("Your documents say nothing about that.", [])

        of_bob = browser.says()  # the same question, in the other's database
        assert "E4" not in json.dumps(of_bob)
        assert "handbook" not in json.dumps(of_bob)

        assert browser.says() == "put them to sleep"
        projects = users_projects(instance)
        assert len(projects) == 2
        images = [path.name for path in instance.paths.volumes.iterdir()]
        assert all(any(project in image for image in images) for project in projects)
        for project in projects:
            (endpoint,) = instance.api("GET", f"/projects/{project}/endpoints")["endpoints"]
            instance.api("POST", f"/projects/{project}/endpoints/{endpoint['id']}/suspend")
            instance.settle(project)
        browser.go_on()
        assert "fed every evening at nine" in browser.says()["said"]
        assert browser.says() == []  # nothing was refused by the browser, the content policy's part included

        assert browser.says() == [403, 403]
        assert browser.says() == "That is not the right address and password."
        assert "Nobody can read it any more" in browser.says()
    finally:
        browser.close()

    (left,) = users_projects(instance)
    (gone,) = set(projects) - {left}
    instance.api("GET", f"/projects/{gone}", expect=404)
    await_erasure(instance, gone)


def test_vectors_are_those_of_the_reference_implementation(packages: Path) -> None:
    """The similarities that the model's authors publish for these three sentences."""
    script = (
        "import json; from rag.embedding import Model; v = Model().embed(['The weather is lovely today.',"
        " \"It's so sunny outside!\", 'He drove to the stadium.']); print(json.dumps((v @ v.T).tolist()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=EXAMPLE, env={"PATH": os.environ["PATH"], "PYTHONPATH": str(packages)},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    expected = [1.0, 0.6660, 0.1046], [0.6660, 1.0, 0.1411], [0.1046, 0.1411, 1.0]
    for found, wanted in zip(json.loads(done.stdout), expected, strict=True):
        assert found == pytest.approx(wanted, abs=1e-4)


def await_erasure(instance: Instance, project_id: str) -> None:
    """Until the project's keys are destroyed and its image is no file any more: the operation goes on after the answer."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        keys = instance.api("GET", "/cloister/keys")["keys"]
        left: list[Any] = [each["state"] for each in keys if each["project_id"] == project_id]
        left = [state for state in left if state != "destroyed"]
        left += [path.name for path in instance.paths.volumes.iterdir() if project_id in path.name]
        if not left:
            return
        time.sleep(0.05)
    raise AssertionError(f"not erased: {left}")
