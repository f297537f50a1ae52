"""What the audit log says was applied, held to a repository: is each commit there, where it was, and signed by whom the log says.

A plan's hash cannot be made again from the commit alone: it is also of what was there before. What can be held is the commit.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from cloister.cli.api import Api
from cloister.cli.audit import EVENTS_PATH
from cloister.cli.config import commits, signing
from cloister.cli.failure import CommandError

_PAGE: Final = 1000
# As many events as the API gives at once.


@dataclass(frozen=True, slots=True)
class Applied:
    """A plan and its commit, as the first event says that names both."""

    plan: str
    commit: str
    signer: str
    seq: int
    actor: str
    why: str = ""
    """What is wrong. Empty: nothing."""

    @property
    def line(self) -> str:
        said = f"plan {self.plan[:12]} by {self.actor}, event {self.seq}: commit {self.commit or 'none'}"
        return f"{said}: {self.why}" if self.why else f"{said}: held"

    def as_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("plan", "commit", "signer", "seq", "actor", "why")}


def applied(api: Api) -> list[Applied]:
    """All that may be seen, the oldest first. One plan may have been applied for two commits."""
    found: dict[tuple[str, str, str], Applied] = {}
    for each in _events(api):
        said = each["event"].get("details") or {}
        if plan := said.get("plan"):
            key = str(plan), str(said.get("commit") or ""), str(said.get("signer") or "")
            found[key] = Applied(*key, seq=each["seq"], actor=str(each["event"].get("actor") or ""))
    return sorted(found.values(), key=lambda it: it.seq)


def _events(api: Api) -> Iterator[dict[str, Any]]:
    """The newest first."""
    cursor: Any = None
    while True:
        answer = api.get(EVENTS_PATH, limit=_PAGE, cursor=cursor)
        yield from answer["events"]
        following = (answer.get("pagination") or {}).get("cursor")
        if not answer["events"] or not following or following == cursor:
            return
        cursor = following


def held(it: Applied, path: Path, signers: signing.Signers | None) -> Applied:
    """With what is wrong, where something is."""
    if not it.commit:
        return replace(it, why="it names no commit")
    if commits.raw_commit(path, it.commit) is None:
        return replace(it, why="it is not in the repository, or not what its name says")
    if not commits.is_in_history(path, it.commit):
        return replace(
            it, why="it is not in the history of what is checked out: that was rewritten, or it was never merged"
        )
    if signers is None:
        return it
    try:
        signer = signing.signer_of(path, it.commit, signers)
    except CommandError as error:
        return replace(it, why=str(error))
    # Where the log names none, nobody was asked for, or they were forgotten.
    if it.signer and it.signer != signer.fingerprint:
        return replace(it, why=f"the log says {it.signer} signed it, and {signer.fingerprint} ({signer.principal}) did")
    return it
