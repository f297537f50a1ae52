"""S3, and stores that speak like it: objects that nobody can delete before their day, and every version that was ever put.

An object is put with object lock in the mode COMPLIANCE, which no credential lifts, the store's root's neither. A store whose
bucket has no object lock refuses such a PUT. Whoever has stolen the credentials can put another version over an object, or a
marker that it is deleted: so what is looked for is versions, not objects.
"""

import base64
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import Annotated, Final
from urllib.parse import quote, unquote_plus

import msgspec
from msgspec import Meta

from cloister.base.errors import UnavailableError
from cloister.trust.sending.https import Answer, Lines, authority, exchange
from cloister.trust.sending.sigv4 import Credentials, query_string, signed
from cloister.trust.sending.targets import target

LISTING_BYTES_MAX: Final = 10 * 1024 * 1024
# Of a thousand versions, and of keys that somebody made as long as they can be, of characters that XML spells with six.

PAGE_KEYS: Final = 1_000
# S3 gives no more.

PAGES_MAX: Final = 1_000
# A million objects: a checkpoint each five minutes for ten years.

OBJECT_BYTES_MAX: Final = 64 * 1024
# That is read again, where nothing larger was put.

_VERSION: Final = re.compile(r"<(?P<kind>Version|DeleteMarker)>.*?</(?P=kind)>", re.DOTALL)
_RULE: Final = re.compile(r"<Rule>.*?</Rule>", re.DOTALL)
_PART: Final = r"<{0}>.*?</{0}>"


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """Which bucket, and where in it, as the operator's files have it."""

    bucket: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]\Z")]
    prefix: Annotated[str, Meta(pattern=r"^([A-Za-z0-9_-][A-Za-z0-9_.-]*/)*\Z", max_length=200)] = ""
    """Of every key of ours, with a slash at its end."""
    region: Annotated[str, Meta(pattern=r"^[a-z0-9-]{1,32}\Z")]
    endpoint: str = ""
    """Of a store that is not AWS's: https://HOST[:PORT]."""
    ca_file: str = ""
    private: bool = False

    @property
    def place(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"

    @property
    def url(self) -> str:
        return (
            f"{self.endpoint}/{self.bucket}"
            if self.endpoint
            else f"https://{self.bucket}.s3.{self.region}.amazonaws.com"
        )


class RefusedError(UnavailableError):
    """The store answered, and did not do it."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(public=f"answered {status} {code}: {message}")
        self.status = status
        self.store_code = code

    @property
    def is_forbidden(self) -> bool:
        return self.status == 403

    @property
    def may_pass(self) -> bool:
        """Whether the same request may succeed in a moment."""
        return self.status >= 500 or self.status == 429 or self.store_code in ("RequestTimeout", "SlowDown")


@dataclass(frozen=True, slots=True)
class Version:
    """One of those that an object has, or a marker that says it is deleted."""

    key: str
    version: str
    size: int
    at: datetime
    """When it was put, by the store's clock."""
    is_latest: bool
    is_marker: bool


@dataclass(frozen=True, slots=True)
class Page:
    versions: list[Version]
    """By key; of one key the newest first."""
    next: tuple[str, str] | None
    """Key and version to go on after; None: that was all."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Of a bucket's lifecycle."""

    prefix: str
    days: int
    """After which an object expires, and so gets a marker; 0: never."""
    noncurrent_days: int
    """After which a version goes that is not the latest; 0: never."""


@dataclass(frozen=True, slots=True)
class Bucket:
    url: str
    """Of the bucket, without a slash at its end."""
    credentials: Credentials
    ca_file: str = ""
    private: bool = False
    lines: Lines | None = None
    """Connections that are used again; None: each request has its own."""

    async def put(self, key: str, content: bytes, *, kind: str, retain_days: int, sse: bool = False) -> str:
        """Its version. `sse`: the store shall encrypt it, too. Raises UnavailableError with what the store says."""
        headers = {"Content-Type": kind, **_checksum(content), **_lock(retain_days)}
        if sse:
            headers["x-amz-server-side-encryption"] = "AES256"
        return (await self._ask("PUT", key, {}, headers, content)).headers.get("x-amz-version-id", "")

    async def may_put(self, key: str) -> bool:
        """By an object whose checksum is another's, which a store refuses once it has looked at permissions."""
        try:
            await self._ask("PUT", key, {}, {**_checksum(b"another"), **_lock(1)}, b"")
        except RefusedError as error:
            if error.status not in (400, 403):
                raise
            return error.status == 400
        return True

    async def versions(self, prefix: str, *, after: str = "") -> list[Version]:
        """Everything that was ever put under `prefix`, whether a marker says now that it is gone; only keys behind `after`, if that
        is given."""
        found: list[Version] = []
        mark = (after, "")
        for _ in range(PAGES_MAX):
            page = await self.page(prefix, after=mark)
            found += [each for each in page.versions if not each.is_marker]
            if page.next is None:
                return found
            mark = page.next
        raise UnavailableError(public=f"has more than {PAGES_MAX} pages of versions")

    async def page(self, prefix: str, *, after: tuple[str, str], count: int = 0) -> Page:
        """Some of them, markers too: behind this version of this key, and without a version behind the key."""
        key, version = after
        # XML has no word for control characters. Without this a store says something else for them, and a key that somebody made of such
        # comes up in another place than it has, or as the place to go on from.
        query = {"versions": "", "prefix": prefix, "max-keys": str(count or PAGE_KEYS), "encoding-type": "url"}
        if key:
            query["key-marker"] = key
        if version:
            query["version-id-marker"] = version
        text = await self._text_of(query)
        more = _text(text, "IsTruncated") == "true"
        spelled = unquote_plus if _text(text, "EncodingType") == "url" else str
        found = [_version(each[0], each["kind"], spelled) for each in _VERSION.finditer(text)]
        if not version:  # some stores begin with the key itself
            found = [each for each in found if each.key > key]
        return Page(
            sorted(found, key=lambda each: (each.key, not each.is_latest, -each.at.timestamp())),
            (spelled(_text(text, "NextKeyMarker")), _text(text, "NextVersionIdMarker")) if more else None,
        )

    async def get(self, key: str, version: str = "", *, wanted: int = OBJECT_BYTES_MAX) -> Answer:
        """Without a version, the latest."""
        return await self._ask("GET", key, {"versionId": version} if version else {}, wanted=wanted)

    async def head(self, key: str, version: str) -> Answer:
        """As `get`, without the content."""
        return await self._ask("HEAD", key, {"versionId": version})

    async def delete(self, key: str, version: str = "") -> None:
        """Nothing of ours deletes; what is looked at is whether it could."""
        await self._ask("DELETE", key, {"versionId": version} if version else {})

    # ── how the bucket is made ──

    async def versioning(self) -> bool:
        return _text(await self._text_of({"versioning": ""}), "Status") == "Enabled"

    async def object_lock(self) -> bool:
        try:
            return _text(await self._text_of({"object-lock": ""}), "ObjectLockEnabled") == "Enabled"
        except RefusedError as error:
            if error.store_code == "ObjectLockConfigurationNotFoundError":
                return False
            raise

    async def encryption(self) -> bool:
        """Whether it encrypts what comes without a word about it."""
        try:
            return bool(_text(await self._text_of({"encryption": ""}), "SSEAlgorithm"))
        except RefusedError as error:
            if error.store_code == "ServerSideEncryptionConfigurationNotFoundError":
                return False
            raise

    async def lifecycle(self) -> list[Rule]:
        """The rules that are on, for all objects of a prefix."""
        try:
            text = await self._text_of({"lifecycle": ""})
        except RefusedError as error:
            if error.store_code == "NoSuchLifecycleConfiguration":
                return []
            raise
        return [
            _rule(each) for each in _RULE.findall(text) if _text(each, "Status") == "Enabled" and "<Tag>" not in each
        ]

    async def _text_of(self, query: dict[str, str]) -> str:
        return (await self._ask("GET", "", query, wanted=LISTING_BYTES_MAX)).body.decode("utf-8", "replace")

    async def _ask(
        self,
        method: str,
        key: str,
        query: dict[str, str],
        headers: dict[str, str] | None = None,
        content: bytes = b"",
        *,
        wanted: int = OBJECT_BYTES_MAX,
    ) -> Answer:
        # A plus in a path is a space to some stores, unless it is spelled out.
        place = f"{self.url}/{quote(key, safe='/-_.~')}"
        host, port, path = target(place)
        said = {"Host": authority(host, port), **(headers or {})}
        given = signed(self.credentials, datetime.now(UTC), method, path, query=query, headers=said, body=content)
        url = place + (f"?{query_string(query)}" if query else "")
        if self.lines is not None:
            answer = await self.lines.exchange(method, url, given, content, wanted=wanted)
        else:
            answer = await exchange(
                method, url, given, content, ca_file=self.ca_file, private=self.private, wanted=wanted
            )
        if not 200 <= answer.status < 300:
            told = answer.body.decode("utf-8", "replace")
            raise RefusedError(answer.status, _text(told, "Code"), _text(told, "Message")[:200])
        return answer


def _checksum(content: bytes) -> dict[str, str]:
    return {
        "x-amz-sdk-checksum-algorithm": "SHA256",
        "x-amz-checksum-sha256": base64.b64encode(hashlib.sha256(content).digest()).decode(),
    }


def _lock(days: int) -> dict[str, str]:
    if not days:
        return {}
    until = datetime.now(UTC) + timedelta(days=days)
    return {
        "x-amz-object-lock-mode": "COMPLIANCE",
        "x-amz-object-lock-retain-until-date": until.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def _version(xml: str, kind: str, spelled: Callable[[str], str]) -> Version:
    try:
        return Version(
            key=spelled(_text(xml, "Key")),
            version=_text(xml, "VersionId"),
            size=int(_text(xml, "Size") or 0),
            at=datetime.fromisoformat(_text(xml, "LastModified")),
            is_latest=_text(xml, "IsLatest") == "true",
            is_marker=kind == "DeleteMarker",
        )
    except ValueError as error:
        raise UnavailableError(xml[:300], public="lists a version that cannot be read") from error


def _rule(xml: str) -> Rule:
    whole, old = (_within(xml, name) for name in ("Expiration", "NoncurrentVersionExpiration"))
    return Rule(_text(xml, "Prefix"), int(_text(whole, "Days") or 0), int(_text(old, "NoncurrentDays") or 0))


def _within(xml: str, name: str) -> str:
    match = re.search(_PART.format(name), xml, re.DOTALL)
    return match[0] if match else ""


def _text(xml: str, name: str) -> str:
    """Of the first element of this name. Keys of ours need no more of XML than this."""
    match = re.search(rf"<{name}>([^<]*)</{name}>", xml)
    return unescape(match[1]) if match else ""
