"""The three calls of Cloister's API that a database per user takes: make one, sleep, erase it."""

import asyncio
import ssl
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import httpx

from rag.settings import Settings

TIMEOUT_S: Final = 60.0
BUSY_TRIES: Final = 60
"""While another operation holds a project (423), or a limit is used up (429): the answer says when to come again."""


class CloisterError(Exception):
    pass


@dataclass(frozen=True, slots=True)
class Database:
    """A user's own, as its connection string says it."""

    project_id: str
    host: str
    port: int
    role: str
    password: str
    name: str


class Cloister:
    def __init__(self, settings: Settings) -> None:
        self.tls = ssl.create_default_context(cafile=settings.ca_file)
        self._http = httpx.AsyncClient(
            base_url=settings.api,
            headers={"Authorization": f"Bearer {settings.api_key}", "User-Agent": "rag-example/1.0"},
            verify=self.tls,
            timeout=TIMEOUT_S,
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def create(self, user_id: str) -> Database:
        """Asked for twice, it is made once: the key makes a repetition get the first answer. The platform learns a number
        of the user and nothing else."""
        made = await self._call(
            "POST", "/projects", {"project": {"name": f"user-{user_id}"}}, {"Idempotency-Key": f"sign-up-{user_id}"}
        )
        uri = urlsplit(made["connection_uris"][0]["connection_uri"])
        return Database(
            project_id=made["project"]["id"],
            host=uri.hostname or "",
            port=uri.port or 5432,
            role=unquote(uri.username or ""),
            password=unquote(uri.password or ""),
            name=unquote(uri.path.removeprefix("/")),
        )

    async def erase(self, project_id: str) -> None:
        """The key of its volume is destroyed with it: what lies on a disk or in a backup of one cannot be read again."""
        await self._call("DELETE", f"/projects/{project_id}?hard_delete=true")

    async def _call(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        for _ in range(BUSY_TRIES):
            try:
                answer = await self._http.request(method, path, json=body, headers=headers)
            except httpx.HTTPError as error:
                raise CloisterError(f"{method} {path}: {type(error).__name__}") from error
            if answer.status_code not in (423, 429, 503):
                break
            await asyncio.sleep(min(float(answer.headers.get("Retry-After", 1)), 5.0))
        if answer.status_code == 404 and method == "DELETE":
            return {}
        if answer.status_code >= 400:
            raise CloisterError(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
        found: dict[str, Any] = answer.json() if answer.content else {}
        return found
