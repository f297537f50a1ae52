"""Whether a store is one for backups, by what it does and not by what it was said to be."""

import asyncio
import secrets
from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import Final

from cloister.base.errors import UnavailableError
from cloister.node.backups.commands import Probed, StoreFacts
from cloister.node.backups.store import Opened
from cloister.trust.sending.https import Answer, authority
from cloister.trust.sending.s3 import Bucket, RefusedError
from cloister.trust.sending.targets import target

KIND: Final = "application/octet-stream"

LOOK_TIMEOUT_S: Final = 20.0
# For all of a look, which is some ten small requests. A person waits for it.

FOLDER: Final = "probes/"

_NO_VERSION: Final = "null"
# What an object has that was put before its bucket kept versions: a name that every store takes, and of nothing here.


async def look(opened: Opened) -> StoreFacts:
    """What can be found out without anything being put."""
    store, reader = opened.store, opened.reader
    host, port, _ = target(store.url)
    versions = locks = gets = puts = encrypts = False
    too_much: list[str] = []
    kept_days = None
    problem = ""
    try:
        async with asyncio.timeout(LOOK_TIMEOUT_S):
            gets = await _reads(reader, store.prefix)
            try:
                versions, locks = await reader.versioning(), await reader.object_lock()
            except RefusedError as error:
                if not error.is_forbidden:
                    raise
                problem = "the reader's credentials may not see whether the bucket keeps versions and locks"
            puts = await opened.writer.may_put(f"{store.prefix}{FOLDER}look")
            too_much = await _too_much(opened.writer, store.prefix)
            encrypts = await _encrypts(reader, store.prefix)
            kept_days = await _kept_days(reader, store.prefix)
    except (UnavailableError, OSError, TimeoutError) as error:
        problem = f"it {said(error)}"
    return StoreFacts(
        name=store.bucket,
        place=authority(host, port),
        has_versions=versions,
        has_lock=locks,
        can_put=puts,
        can_get=gets,
        is_encrypted=encrypts,
        problem=problem or _problem(gets=gets, versions=versions, locks=locks, puts=puts),
        too_much=too_much,
        kept_days=kept_days,
    )


def _problem(*, gets: bool, versions: bool, locks: bool, puts: bool) -> str:
    if not gets:
        return "the reader's credentials may not list and get what is there"
    if not versions:
        return "the bucket does not keep versions: whoever puts another over an object has removed it"
    if not locks:
        return "the bucket has no object lock: whoever may delete there can take backups away"
    if not puts:
        return "the writer's credentials may not put a locked object"
    return ""


async def probe(opened: Opened) -> Probed:
    """What a store does with an object, tried.

    1. What can be found out without putting. A bucket that does not lock, or cannot be reached, is tried no further.
    2. The writer puts an object of a few bytes, locked for a day.
    3. The reader gets this version of it: the same bytes, the lock, how it is encrypted.
    4. Each credential tries what it must not be able to do, the most harmful last: nothing of ours is at stake but the probe.
    """
    store, writer, reader = opened.store, opened.writer, opened.reader
    key = f"{store.prefix}{FOLDER}{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
    content = secrets.token_bytes(32)
    # 1.
    facts = await look(opened)
    if facts.problem:
        return Probed(
            facts=facts, key=key, locked_until=None, is_encrypted=False, problems=[facts.problem], warnings=[]
        )
    problems, warnings = [], []
    until, encrypted = None, False
    try:
        async with asyncio.timeout(LOOK_TIMEOUT_S):
            # 2.
            version = await writer.put(key, content, kind=KIND, retain_days=1, sse=store.sse)
            # 3.
            answer = await reader.get(key, version)
            until, encrypted = locked_until(answer), "x-amz-server-side-encryption" in answer.headers
            if answer.body != content:
                problems.append("what is read is not what was put")
            if until is None:
                problems.append("what was put with a lock is not locked")
            # 4.
            if await _may(writer.get(key, version)):
                warnings.append(
                    "the writer's credentials can read: whoever takes them reads every object (PutObject is all they need)"
                )
            if await _may(writer.page(store.prefix, after=("", ""), count=1)):
                warnings.append("the writer's credentials can list what is there")
            if await _may(reader.put(f"{key}-reader", content, kind=KIND, retain_days=1)):
                warnings.append("the reader's credentials can write: they are to list and to get, and nothing else")
            for name, bucket in (("writer", writer), ("reader", reader)):
                if await _may(bucket.delete(key)):
                    warnings.append(f"the {name}'s credentials can hide objects behind a marker")
                if await _may(bucket.delete(key, version)):
                    problems.append(
                        f"a locked object was deleted with the {name}'s credentials: the store does not keep its word"
                    )
    except (UnavailableError, OSError, TimeoutError) as error:
        problems.append(f"it {said(error)}")
        if isinstance(error, RefusedError) and error.status == 501:
            problems.append("if it is encryption that it does not know, set it with --no-sse")
    return Probed(
        facts=facts, key=key, locked_until=until, is_encrypted=encrypted, problems=problems, warnings=warnings
    )


def locked_until(answer: Answer) -> float | None:
    """By what the store says with an object; None where nobody would need more than a permission to delete it."""
    if answer.headers.get("x-amz-object-lock-mode") != "COMPLIANCE":
        return None
    try:
        return datetime.fromisoformat(answer.headers["x-amz-object-lock-retain-until-date"]).timestamp()
    except (KeyError, ValueError):
        return None


def said(error: Exception) -> str:
    """In the words that follow the store's name."""
    if isinstance(error, UnavailableError):
        return error.public
    if isinstance(error, TimeoutError):
        return "did not answer in time"
    return f"cannot be reached: {error}"


async def _may(asked: Awaitable[object]) -> bool:
    """Whether the store did it. That it refused for whatever reason is a refusal."""
    try:
        await asked
    except RefusedError:
        return False
    return True


async def _reads(reader: Bucket, prefix: str) -> bool:
    """Whoever may list is told that something is not there, and anybody else that they may not."""
    try:
        await reader.page(prefix, after=("", ""), count=1)
        await reader.get(f"{prefix}{FOLDER}none")
    except RefusedError as error:
        if error.status not in (403, 404):
            raise
        return error.status == 404
    return True


async def _too_much(writer: Bucket, prefix: str) -> list[str]:
    """Nothing has the version that is asked to be deleted: who may is answered that it is done, or that it is not there."""
    found = []
    if await _may(writer.page(prefix, after=("", ""), count=1)):
        found.append("the writer's credentials can list what is there")
    try:
        await writer.delete(f"{prefix}{FOLDER}none", _NO_VERSION)
        is_forbidden = False
    except RefusedError as error:
        is_forbidden = error.is_forbidden
    if not is_forbidden:
        found.append("the writer's credentials can delete versions that are not locked")
    return found


async def _encrypts(reader: Bucket, prefix: str) -> bool:
    """What one object says; where there is none, what the bucket does by itself. If the reader may know."""
    try:
        for each in (await reader.page(prefix, after=("", ""), count=10)).versions:
            if not each.is_marker:
                return "x-amz-server-side-encryption" in (await reader.head(each.key, each.version)).headers
        return await reader.encryption()
    except RefusedError:
        return False


async def _kept_days(reader: Bucket, prefix: str) -> int | None:
    try:
        rules = await reader.lifecycle()
    except RefusedError:
        return None
    ours = [each for each in rules if prefix.startswith(each.prefix)]
    days = [each.days for each in ours if each.days]
    old = [each.noncurrent_days for each in ours if each.noncurrent_days]
    return min(days) + min(old) if days and old else None
