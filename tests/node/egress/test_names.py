"""Names whose servers hang are waited for by whose rules have them, and by nobody else."""

import asyncio
import threading
from collections.abc import Iterator
from queue import SimpleQueue

import pytest

from cloister.node.egress.names import LOOK_UPS_MAX, SHARE, Names

SHOP, BLOG = "calm-forest-00000001", "calm-forest-00000002"


class Resolver:
    """Names that begin with `slow` have no answer until they are let go."""

    def __init__(self) -> None:
        self.asked: SimpleQueue[str] = SimpleQueue()
        self.let_go = threading.Event()

    def look_up(self, host: str, _port: int) -> list[str]:
        self.asked.put(host)
        if host.startswith("slow"):
            self.let_go.wait()
        if host.startswith("slow-and-gone"):
            raise OSError(host)
        return ["203.0.113.7"]


@pytest.fixture
def resolver() -> Iterator[Resolver]:
    resolver = Resolver()
    yield resolver
    resolver.let_go.set()


async def test_a_project_whose_names_hang_takes_no_thread_from_another(resolver: Resolver) -> None:
    names = Names(resolver.look_up)
    slow = [asyncio.create_task(names.resolve(SHOP, f"slow-{n}.test", 5432)) for n in range(2 * LOOK_UPS_MAX)]
    async with asyncio.timeout(20):
        assert await names.resolve(BLOG, "db.test", 5432) == ["203.0.113.7"]
    asked = {resolver.asked.get() for _ in range(SHARE + 1)}
    assert asked == {"db.test", *(f"slow-{n}.test" for n in range(SHARE))}
    assert resolver.asked.empty()
    resolver.let_go.set()
    async with asyncio.timeout(20):
        assert await asyncio.gather(*slow) == [["203.0.113.7"]] * (2 * LOOK_UPS_MAX)


async def test_a_turn_is_over_when_the_look_up_is_and_not_when_nobody_waits_for_it(resolver: Resolver) -> None:
    names = Names(resolver.look_up)
    given_up = [asyncio.create_task(names.resolve(SHOP, f"slow-and-gone-{n}.test", 5432)) for n in range(SHARE)]
    async with asyncio.timeout(20):
        for _ in given_up:
            await asyncio.to_thread(resolver.asked.get)
        for each in given_up:
            each.cancel()
        await asyncio.gather(*given_up, return_exceptions=True)
        next_one = asyncio.create_task(names.resolve(SHOP, "db.test", 5432))
        assert await names.resolve(BLOG, "blog.test", 5432) == ["203.0.113.7"]
        assert not next_one.done(), "no thread of the project's share is free yet"
        resolver.let_go.set()
        assert await next_one == ["203.0.113.7"]


async def test_what_is_wrong_with_a_name_is_told(resolver: Resolver) -> None:
    resolver.let_go.set()
    with pytest.raises(OSError, match="slow-and-gone"):
        await Names(resolver.look_up).resolve(SHOP, "slow-and-gone.test", 5432)
