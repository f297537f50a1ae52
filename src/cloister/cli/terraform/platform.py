"""The platform, as the provider's work sees it: calls, one change of a project at a time, and waiting for what a call began.

Terraform works on ten things at once, while the platform takes one change of a project at a time and refuses others meanwhile.
So who wants to change something in a project takes turns here, and other clients are given time.
"""

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Final

from cloister.cli.api import Api, Json, segment
from cloister.cli.config import platform as configured
from cloister.cli.target import Target
from cloister.cli.terraform.values import UNKNOWN
from cloister.cli.waiting import wait_for

PRODUCT: Final = "cloister-terraform"
"""How the audit log names the client."""

BUSY_PATIENCE_S: Final = 120.0
# Somebody else's operation on the same project. Nobody stands at a terminal, so longer than a command waits.
PATIENCE_S: Final = 1200.0
# For one operation: a branch of a large project is copied.


class Platform:
    def __init__(self, target: Target, *, org_id: str = "", commit: str = "") -> None:
        self._target = target
        self._said_org_id = org_id
        self._commit = commit
        self._mine = threading.local()
        self._lock = threading.Lock()
        self._turns: dict[str, threading.Lock] = {}

    @property
    def api(self) -> Api:
        """Of this thread: a connection carries one call at a time."""
        api: Api | None = getattr(self._mine, "api", None)
        if api is None:
            api = self._mine.api = self._connect()
        return api

    def _connect(self) -> Api:
        api = Api(self._target, product=PRODUCT, signs=False, busy_patience_s=BUSY_PATIENCE_S)
        api.waits_its_turn = True
        return api

    def close(self) -> None:
        """The connection of this thread."""
        self.api.close()

    @property
    def org_id(self) -> str:
        """Raises CommandError where it has to be said."""
        with self._lock:
            self._said_org_id = self._said_org_id or configured.organization_id(self.api, "")
        return self._said_org_id

    @contextlib.contextmanager
    def seeing(self, before: Mapping[str, str]) -> Iterator[dict[str, str]]:
        """While it lasts, what this thread looks at is noted, with its version; what it changes has to be as it was last seen, and
        `before` as it is there."""
        versions = self.api.versions = dict(before)
        try:
            yield versions
        finally:
            self.api.versions = None

    @contextlib.contextmanager
    def change(self, project_id: str, digest: str) -> Iterator[None]:
        """While it lasts, this thread's calls belong to that change, and no other thread changes anything in the project."""
        with self._lock:
            turn = self._turns.setdefault(project_id, threading.Lock())
        with turn if project_id else contextlib.nullcontext():
            self.api.change = f"plan={digest}" + (f";commit={self._commit}" if self._commit else "")
            try:
                yield
            finally:
                self.api.change = ""

    def finish(self, answer: Json) -> None:
        """What a call began. Raises CommandError with the error of what did not succeed."""
        wait_for(self.api, answer.get("operations") or [], patience_s=PATIENCE_S)


def change_digest(type_name: str, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> str:
    """Of one change as it was planned: what `terraform show -json` has as `before` and `after`. What was not known is left out there,
    and so is which other things it belongs to (`project_id`), which the plan may not have known, and the apply does."""
    said = {"type": type_name, "before": before, "after": after if after is None else _own(after)}
    return hashlib.sha256(
        json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    ).hexdigest()


def _own(after: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in after.items() if value is not UNKNOWN and not name.endswith("_id")}


def project_path(state: Mapping[str, Any]) -> str:
    return f"/projects/{segment(state['project_id'])}"


def branch_path(state: Mapping[str, Any]) -> str:
    return f"{project_path(state)}/branches/{segment(state['branch_id'])}"
