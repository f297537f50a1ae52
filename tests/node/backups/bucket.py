"""A store in memory, which answers as the courier does, and can be told to lie; and the keys of projects."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from cloister.base.errors import NotFoundError, UnavailableError
from cloister.node.backups.commands import (
    Content,
    GetObject,
    GetVersion,
    ListObjects,
    LookAtStore,
    NameStore,
    ObjectInfo,
    Page,
    Place,
    PutObject,
    StoreFacts,
)
from cloister.node.commands import Done
from cloister.trust.keys.commands import DumpKeyInfo
from cloister.trust.keys.memory import SecretPage

PAGE: Final = 7
# Small, so that listings have several.


@dataclass
class Version:
    name: str
    content: bytes | None
    """None: a marker that says it is deleted."""
    days: int = 0


class Bucket:
    def __init__(self) -> None:
        self.name = "a bucket"
        self.objects: defaultdict[str, list[Version]] = defaultdict(list)
        """The oldest version first."""
        self.puts: list[str] = []
        self.listed: list[str] = []
        """Prefixes."""
        self.is_away = False
        self.before_put: Callable[[str], None] = lambda _key: None
        self._count = 0

    async def call(self, command: Any, *, timeout_s: float = 0) -> Any:
        if self.is_away:
            raise UnavailableError("no answer")
        match command:
            case NameStore():
                return self.name
            case LookAtStore():
                return StoreFacts(
                    name="bucket",
                    place="here",
                    has_versions=True,
                    has_lock=True,
                    can_put=True,
                    can_get=True,
                    is_encrypted=True,
                )
            case PutObject():
                self.before_put(command.key)
                self.put(command.key, command.content, command.retain_days)
                self.puts.append(command.key)
                return Done()
            case GetObject():
                versions = self.objects.get(command.key)
                return self._given(versions[-1] if versions else None)
            case GetVersion():
                return self._given(
                    next((it for it in self.objects.get(command.key, []) if it.name == command.version), None)
                )
            case ListObjects():
                self.listed.append(command.prefix)
                return self._page(command)
        raise AssertionError(command)

    def put(self, key: str, content: bytes | None, days: int = 0) -> None:
        self._count += 1
        self.objects[key].append(Version(f"v{self._count:06}", content, days))

    def keys(self, part: str = "") -> list[str]:
        return sorted(key for key in self.objects if part in key)

    def latest(self, key: str) -> bytes:
        content = self.objects[key][-1].content
        assert content is not None
        return content

    def _given(self, version: Version | None) -> Content:
        if version is None or version.content is None:
            raise NotFoundError("not there")
        return Content(content=version.content, version=version.name)

    def _page(self, command: ListObjects) -> Page:
        found = [
            ObjectInfo(
                key=key,
                version=it.name,
                size=len(it.content or b""),
                put_at=float(it.name[1:]),
                is_latest=it is versions[-1],
                is_marker=it.content is None,
            )
            for key, versions in sorted(self.objects.items())
            if key.startswith(command.prefix)
            for it in reversed(versions)
        ]
        if command.after is not None:
            after = command.after
            found = [
                it
                for it in found
                if it.key > after.key or (it.key == after.key and after.version and it.version < after.version)
            ]
        page = found[:PAGE]
        more = len(found) > PAGE

        return Page(objects=page, after=Place(page[-1].key, page[-1].version) if more else None)


class BackupKeys:
    """As the key broker's client."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.refusal: Exception | None = None

    async def backup_key(self, project_id: str, reason: str, *, material: int | None = None) -> tuple[int, SecretPage]:
        self.reasons.append(reason)
        if self.refusal is not None:
            raise self.refusal
        page = SecretPage(32)
        page.buffer[:] = secret_of(project_id, material or 1)
        return material or 1, page

    async def dump_key(self, reason: str) -> tuple[DumpKeyInfo, SecretPage]:
        _, page = await self.backup_key("platform", reason)
        return DumpKeyInfo(material=1, envelope=b"wrapped", epoch=7), page


def secret_of(project_id: str, material: int = 1) -> bytes:
    return (project_id.encode() * 32)[:31] + bytes([material])
