"""Signs up N users and measures what each costs: `python load.py --help`.

Goes through the application's own pages, as browsers do, one user at a time; puts every database to sleep through
Cloister's API; then asks each its first question. Where it may look at the platform's state directory (as root, on the
same machine) it tells memory and disk of the sleeping users as well.
"""

import argparse
import asyncio
import json
import os
import re
import ssl
import time
from pathlib import Path
from typing import Any, Final

import httpx

SAMPLE: Final = Path(__file__).parent / "samples" / "handbook.md"
QUESTION: Final = "The oven says E4. What do I do?"
ANSWER: Final = "the door sensor is dirty"
PASSWORD: Final = "correct horse battery"  # noqa: S105 - of users that exist for this run
ASLEEP_S: Final = 120.0


async def main() -> None:
    parser = argparse.ArgumentParser(
        description="Sign up users and measure. Start the application with RAG_LIMITS=off."
    )
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--origin", default=os.environ.get("RAG_ORIGIN", "http://localhost:8000"))
    parser.add_argument(
        "--state-dir", type=Path, help="of the platform, to measure memory and disk: as root, on its machine"
    )
    parser.add_argument("--keep", action="store_true", help="do not delete the accounts in the end")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    given = parser.parse_args()
    if not (os.environ.get("CLOISTER_API_HOST") and os.environ.get("CLOISTER_API_KEY")):
        parser.error("set CLOISTER_API_HOST and CLOISTER_API_KEY, as for the application")
    tls = ssl.create_default_context(cafile=os.environ.get("CLOISTER_CA_FILE") or None)
    api = httpx.AsyncClient(
        base_url=os.environ["CLOISTER_API_HOST"].rstrip("/"),
        headers={"Authorization": f"Bearer {os.environ['CLOISTER_API_KEY']}"},
        verify=tls,
        timeout=60,
    )
    users = [httpx.AsyncClient(base_url=given.origin, timeout=120) for _ in range(given.users)]
    before = _weights(given.state_dir)
    others = set(await _projects(api))
    run = f"{time.time():.0f}"

    sign_ups = [await _timed(_sign_up(user, f"{run}-{number}@example.com")) for number, user in enumerate(users)]
    uploads = [await _timed(_upload(user)) for user in users]
    ours = [project for project in await _projects(api) if project not in others]
    assert len(ours) == given.users, f"{len(ours)} new projects for {given.users} users"
    for project in ours:
        await _put_to_sleep(api, project)
    after = _weights(given.state_dir)
    asleep = [await _timed(_ask(user)) for user in users]
    awake = [await _timed(_ask(user)) for user in users]
    deletions = [] if given.keep else [await _timed(_delete(user)) for user in users]

    found: dict[str, Any] = {
        "users": given.users,
        "sign-up": _spread(sign_ups),
        "upload of a page": _spread(uploads),
        "first question, asleep": _spread(asleep),
        "question, awake": _spread(awake),
    }
    if deletions:
        found["deletion of an account"] = _spread(deletions)
    for what, old in before.items():
        found[f"{what} per sleeping user"] = f"{(after[what] - old) / given.users:.2f} MB"
    for name, value in found.items():
        print(f"{name:28}{value}")  # noqa: T201 - this is what it is for
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")
    for client in (api, *users):
        await client.aclose()


async def _timed(work: Any) -> float:
    began = time.perf_counter()
    await work
    return time.perf_counter() - began


async def _sign_up(user: httpx.AsyncClient, email: str) -> None:
    await _post(user, "/sign-up", "/sign-up", {"email": email, "password": PASSWORD})


async def _upload(user: httpx.AsyncClient) -> None:
    page = await _post(user, "/", "/documents", {}, files={"file": (SAMPLE.name, SAMPLE.read_bytes())})
    assert SAMPLE.name in page


async def _ask(user: httpx.AsyncClient) -> None:
    page = await _post(user, None, "/ask", {"question": QUESTION})
    assert ANSWER in page


async def _delete(user: httpx.AsyncClient) -> None:
    await _post(user, "/account/delete", "/account/delete", {"password": PASSWORD})


_TOKENS: Final[dict[int, str]] = {}


async def _post(user: httpx.AsyncClient, form: str | None, path: str, fields: dict[str, str], **more: Any) -> str:
    """Load the page with the form, and send it; without `form`, the page with the form is still open."""
    if form is not None:
        _TOKENS[id(user)] = _token((await user.get(form)).text)
    answer = await user.post(path, data={**fields, "token": _TOKENS[id(user)]}, follow_redirects=True, **more)
    assert answer.status_code == 200, f"{path}: {answer.status_code} {answer.text}"
    return answer.text


def _token(page: str) -> str:
    match = re.search(r'name="token" value="([0-9a-f]{64})"', page)
    assert match is not None, page
    return match[1]


async def _projects(api: httpx.AsyncClient) -> list[str]:
    found: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        answer = (await api.get("/projects", params={"limit": "100", **cursor})).raise_for_status().json()
        found += [each["id"] for each in answer["projects"]]
        if len(answer["projects"]) < 100:
            return found
        cursor = {"cursor": answer["pagination"]["cursor"]}


async def _put_to_sleep(api: httpx.AsyncClient, project: str) -> None:
    (endpoint,) = (await api.get(f"/projects/{project}/endpoints")).raise_for_status().json()["endpoints"]
    path = f"/projects/{project}/endpoints/{endpoint['id']}"
    deadline = time.monotonic() + ASLEEP_S
    while (await api.get(path)).raise_for_status().json()["endpoint"]["current_state"] != "idle":
        assert time.monotonic() < deadline, f"{project} does not fall asleep"
        await api.post(f"{path}/suspend")
        await asyncio.sleep(0.1)


def _weights(state_dir: Path | None) -> dict[str, float]:
    """Of the platform, in MB: what its processes hold in memory (PSS), what its volumes take on the disk."""
    if state_dir is None:
        return {}
    held = 0
    mark = str(state_dir).encode()
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                if mark in (process / "cmdline").read_bytes():
                    rollup = (process / "smaps_rollup").read_text()
                    held += int(re.findall(r"^Pss: +(\d+) kB", rollup, re.MULTILINE)[0]) * 1024
            except (OSError, IndexError):
                continue
    taken = sum(path.stat().st_blocks * 512 for path in (state_dir / "volumes").rglob("*") if path.is_file())
    return {"memory": held / 1e6, "disk": taken / 1e6}


def _spread(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    at = {name: ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000 for name, share in PARTS.items()}
    return ", ".join(f"{name} {value:.0f} ms" for name, value in at.items())


PARTS: Final = {"p50": 0.5, "p95": 0.95}

if __name__ == "__main__":
    asyncio.run(main())
