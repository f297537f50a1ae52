"""S3, and stores that speak like it: objects that nobody can delete before their day, and every version that was ever put.

An object is put with object lock in the mode COMPLIANCE, which no credential lifts, the store's root's neither. A store whose
bucket has no object lock refuses such a PUT. Whoever has stolen the credentials can put another version over an object, or a
marker that it is deleted: so what is looked for is versions, not objects.
"""

import base64
import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import Final

from cloister.base.errors import UnavailableError
from cloister.trust.sending.https import Answer, authority, exchange
from cloister.trust.sending.sigv4 import Credentials, query_string, signed
from cloister.trust.sending.targets import target

LISTING_BYTES_MAX: Final = 4 * 1024 * 1024
# Of a thousand versions.

PAGES_MAX: Final = 1_000
# A million objects: a checkpoint each five minutes for ten years.

OBJECT_BYTES_MAX: Final = 64 * 1024
# That is read again.

_VERSION: Final = re.compile(r"<Version>.*?</Version>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Bucket:
    url: str
    """Of the bucket, without a slash at its end."""
    credentials: Credentials
    ca_file: str = ""
    private: bool = False

    async def put(self, key: str, content: bytes, *, kind: str, retain_days: int) -> None:
        """Raises UnavailableError with what the store says."""
        headers = {
            "Content-Type": kind,
            "x-amz-sdk-checksum-algorithm": "SHA256",
            "x-amz-checksum-sha256": base64.b64encode(hashlib.sha256(content).digest()).decode(),
        }
        if retain_days:
            until = datetime.now(UTC) + timedelta(days=retain_days)
            headers |= {
                "x-amz-object-lock-mode": "COMPLIANCE",
                "x-amz-object-lock-retain-until-date": until.strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
        await self._ask("PUT", key, {}, headers, content)

    async def versions(self, prefix: str, *, after: str = "") -> list[tuple[str, str]]:
        """Key and version of everything that was ever put under `prefix`, whether something says now that it is gone; only keys
        behind `after`, if that is given."""
        found: list[tuple[str, str]] = []
        marks = {"key-marker": after} if after else {}
        for _ in range(PAGES_MAX):
            query = {"versions": "", "prefix": prefix, **marks}
            text = (await self._ask("GET", "", query, wanted=LISTING_BYTES_MAX)).body.decode("utf-8", "replace")
            found += [(_text(each, "Key"), _text(each, "VersionId")) for each in _VERSION.findall(text)]
            if _text(text, "IsTruncated") != "true":
                return found
            marks = {
                "key-marker": _text(text, "NextKeyMarker"),
                "version-id-marker": _text(text, "NextVersionIdMarker"),
            }
        raise UnavailableError(public=f"has more than {PAGES_MAX} pages of versions")

    async def get(self, key: str, version: str) -> Answer:
        return await self._ask("GET", key, {"versionId": version}, wanted=OBJECT_BYTES_MAX)

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
        host, port, path = target(f"{self.url}/{key}")
        said = {"Host": authority(host, port), **(headers or {})}
        given = signed(self.credentials, datetime.now(UTC), method, path, query=query, headers=said, body=content)
        url = f"{self.url}/{key}" + (f"?{query_string(query)}" if query else "")
        answer = await exchange(method, url, given, content, ca_file=self.ca_file, private=self.private, wanted=wanted)
        if not 200 <= answer.status < 300:
            told = answer.body.decode("utf-8", "replace")
            raise UnavailableError(
                public=f"answered {answer.status} {_text(told, 'Code')}: {_text(told, 'Message')[:200]}"
            )
        return answer


def _text(xml: str, name: str) -> str:
    """Of the first element of this name. Keys of ours need no more of XML than this."""
    match = re.search(rf"<{name}>([^<]*)</{name}>", xml)
    return unescape(match[1]) if match else ""
