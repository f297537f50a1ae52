"""Whether what lies on the disk is encrypted: read from each image itself, not from what anybody says about it. And whether it lies there:
every project has its volume, which after the loss of a disk is brought back project by project."""

import asyncio
import struct
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloister.cli.doctor.finding import Finding, Subject, fail, ok, warning

CIPHER: Final = "aes-xts-plain64"
KEY_BITS: Final = 512
# XTS takes two keys of 256 bits each.

UNFINISHED: Final = ".unfinished"
"""How an image is called until it is formatted (node/volumes/encrypted.py)."""

_MAGIC: Final = b"LUKS\xba\xbe"
_HEADER: Final = struct.Struct(">6sH32s32s32sII")
# LUKS1: magic, version, cipher, mode, hash, first payload sector, bytes of the key.
_SECTOR: Final = 512
_NAMES_MAX: Final = 3


@dataclass(frozen=True, slots=True)
class Header:
    """What a LUKS1 header says, and whether what follows it looks like a file system in clear."""

    cipher: str
    key_bits: int
    is_clear: bool


def volumes(subject: Subject) -> list[Finding]:
    project_ids = asyncio.run(_projects(subject))  # before their volumes: one that is made meanwhile has its own
    return [
        decide_volumes(project_ids, {path.name.partition(".")[0] for path in subject.platform.paths.volumes.iterdir()})
    ]


async def _projects(subject: Subject) -> list[str]:
    from cloister.base.database.owner import connected  # noqa: PLC0415 - heavy

    async with connected(subject.platform) as database, database.reading() as tx:
        return [row["id"] for row in await tx.fetch(_PROJECTS)]


def decide_volumes(project_ids: Collection[str], there: Collection[str]) -> Finding:
    """`there` is whose volumes lie here."""
    if missing := sorted(set(project_ids) - set(there)):
        more = ", …" if len(missing) > _NAMES_MAX else ""
        return fail(
            "projects' volumes",
            f"{len(missing)} of {len(project_ids)} projects have none: {', '.join(missing[:_NAMES_MAX])}{more}",
            "cloister backups restore --whole --project-id ID, for each of them",
        )
    return ok("projects' volumes", f"each of {len(project_ids)} projects has its own")


def encryption(subject: Subject) -> list[Finding]:
    settings = subject.platform
    if settings.storage == "plain":
        return [
            warning("encryption", "storage is plain: NOTHING IS ENCRYPTED", "for tenants' data use `--storage luks`")
        ]
    headers = {}
    for path in sorted(settings.paths.volumes.iterdir()):
        header = read_header(path)
        if header is None and path.name.endswith(UNFINISHED) and _is_empty(path):
            continue  # a volume in the first milliseconds of its making: there is nothing in it
        headers[path.name] = header
    return [decide(headers)]


def decide(headers: dict[str, Header | None]) -> Finding:
    """`None` stands for a file that is no LUKS image."""
    bad = {name: reason for name, header in headers.items() if (reason := _complaint(header))}
    if bad:
        shown = "; ".join(f"{name} {reason}" for name, reason in sorted(bad.items())[:_NAMES_MAX])
        return fail(
            "encryption",
            f"{len(bad)} of {len(headers)} volumes: {shown}",
            "stop the platform and find out who put it there",
        )
    if not headers:
        return ok("encryption", "no volume yet")
    return ok("encryption", f"verified in the header of each of {len(headers)} volumes: {CIPHER}, {KEY_BITS} bits")


def _complaint(header: Header | None) -> str:
    if header is None:
        return "is not a LUKS image"
    if header.cipher != CIPHER or header.key_bits != KEY_BITS:
        return f"is encrypted with {header.cipher}, {header.key_bits} bits"
    return "has a LUKS header before a file system in clear" if header.is_clear else ""


def read_header(path: Path) -> Header | None:
    with path.open("rb") as image:
        raw = image.read(_HEADER.size)
        if (parsed := parse(raw)) is None:
            return None
        cipher, key_bits, payload_sector = parsed
        image.seek(payload_sector * _SECTOR)
        return Header(cipher, key_bits, is_clear=image.read(4) == b"XFSB")


def _is_empty(path: Path) -> bool:
    """Nothing was written to it: a file without a single block."""
    return path.stat().st_blocks == 0


def parse(raw: bytes) -> tuple[str, int, int] | None:
    """Cipher, key bits and first payload sector of a LUKS1 header; None if it is none."""
    if len(raw) < _HEADER.size:
        return None
    magic, version, cipher, mode, _hash, payload, key_bytes = _HEADER.unpack(raw[: _HEADER.size])
    if magic != _MAGIC or version != 1:
        return None
    return f"{_text(cipher)}-{_text(mode)}", key_bytes * 8, payload


def _text(field: bytes) -> str:
    return field.rstrip(b"\0").decode("ascii", "replace")


_PROJECTS: Final = """
    SELECT p.id FROM cloister.project p JOIN cloister.volume v ON v.project_id = p.id AND v.state = 'taken'
    WHERE p.deleted_at IS NULL ORDER BY p.id"""
