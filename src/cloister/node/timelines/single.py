"""What is said to a cluster that no compute works on, by a server of one user: replay to a point, be brought to rest, give up
its secrets, be looked at. What is said is in `recovery.py`, `scrub.py` and `checking.py`.
"""

import secrets
from typing import Any, Protocol

from cloister.base.errors import InternalError
from cloister.node.runs import Ran
from cloister.node.timelines import checking, recovery, scrub
from cloister.node.timelines.layout import Timeline
from cloister.node.timelines.making import Assembled
from cloister.node.timelines.recovery import END, Target


class SingleUser(Protocol):
    """Runs `postgres --single` in a sandbox: see `node/single_user.py`."""

    def sweep(self) -> None: ...

    async def run(
        self, engine: Any, timeline: Timeline, uid: int, *, database: str, settings: dict[str, str], stdin: bytes
    ) -> Ran: ...


class Roots(Protocol):
    """What is needed of `node/postgres`."""

    async def ensure_root(self, engine: Any) -> None: ...


class Clusters:
    """The caller holds the timeline's lock, or it is one that nobody knows of yet."""

    def __init__(self, roots: Roots, single_user: SingleUser) -> None:
        self._roots = roots
        self._single_user = single_user

    async def replay(
        self, engine: Any, timeline: Timeline, uid: int, target: Target, assembled: Assembled
    ) -> tuple[Ran, bool]:
        """And whether the WAL ended before the point."""
        await self._roots.ensure_root(engine)
        ran = await self._run(engine, timeline, uid, settings=recovery.settings(target))
        has_missed = recovery.has_missed_target(ran.output)
        if has_missed:
            # Nothing was committed after the point, if that was all the WAL there is: then the end is the place.
            assembled.require_whole()
            timeline.recovery_log.rename(timeline.recovery_log.with_suffix(".missed"))
            ran = await self._run(engine, timeline, uid, settings=recovery.settings(END))
        _require_success(ran)
        return ran, has_missed

    async def bring_to_rest(self, engine: Any, timeline: Timeline, uid: int) -> None:
        await self._roots.ensure_root(engine)
        _require_success(await self._run(engine, timeline, uid, settings={}))

    async def take_secrets_out(self, engine: Any, timeline: Timeline, uid: int) -> None:
        await self._roots.ensure_root(engine)
        token = secrets.token_hex(8)
        output = await self._say(engine, timeline, uid, scrub.statements_for_all(token))
        for oid in scrub.databases(output):
            await self._say(engine, timeline, uid, scrub.statements_for_each(), database=scrub.name_of(token, oid))
        await self._say(engine, timeline, uid, scrub.statements_at_the_end())

    async def look_through(self, engine: Any, timeline: Timeline, uid: int) -> dict[int, checking.Answer]:
        """By the oids of its databases; 1 is that which they are copies of. To be thrown away afterwards."""
        await self._roots.ensure_root(engine)
        token = secrets.token_hex(8)
        output = await self._say(engine, timeline, uid, checking.before(token))
        databases = {1: scrub.DATABASE} | {
            oid: scrub.name_of(token, oid) for oid in sorted(scrub.named(output).values())
        }
        return {
            oid: checking.answer(await self._say(engine, timeline, uid, checking.questions(token), database=name))
            for oid, name in databases.items()
        }

    async def _say(
        self, engine: Any, timeline: Timeline, uid: int, statements: bytes, *, database: str = scrub.DATABASE
    ) -> str:
        ran = await self._run(engine, timeline, uid, settings={}, stdin=statements, database=database)
        if scrub.has_failed(ran.code, ran.output):
            raise InternalError(f"what was said to a cluster ended with {ran.code}: {ran.output[-2000:]}")
        return ran.output

    async def _run(
        self,
        engine: Any,
        timeline: Timeline,
        uid: int,
        *,
        settings: dict[str, str],
        stdin: bytes = b"",
        database: str = scrub.DATABASE,
    ) -> Ran:
        return await self._single_user.run(engine, timeline, uid, database=database, settings=settings, stdin=stdin)


def _require_success(ran: Ran) -> None:
    if ran.code != 0:
        raise InternalError(
            f"recovery ended with {ran.code}: {ran.output[-2000:]}", public="the branch's data is damaged"
        )
