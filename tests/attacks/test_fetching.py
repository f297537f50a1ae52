"""Threats to fetching a URL that a member gave: being led into the operator's own network, or being kept there.

Each test is about one sentence of `trust/fetching/https.py`.
"""

import asyncio
import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.base.ipallow import AllowList
from cloister.trust.fetching import Fetcher, FetchError, Reach, place_of
from cloister.trust.fetching.https import BODY_BYTES_MAX, FETCHES_MAX, SHARE
from tests.trust.fetching.issuer import HERE, an_issuer, answer

NOWHERE_PRIVATE = Reach(AllowList(()))
ONE_SENTENCE = "it leads to no public address on port 443"


@pytest.mark.parametrize(
    "url",
    [
        "http://issuer.test/jwks",
        "HTTP://issuer.test/jwks",
        "file:///etc/passwd",
        "gopher://issuer.test/",
        "//issuer.test/jwks",
        "https:issuer.test",
        "https://",
        "https:///jwks",
        "https://user@issuer.test/",
        "https://user:secret@issuer.test/",
        "https://issuer.test@127.0.0.1/",
        "https://issuer.test\\@127.0.0.1/",
        "https://issuer.test/#fragment",
        "https://issuer.test:0x1bb/",
        "https://issuer.test:99999/",
        "https://issuer.test/ HTTP/1.1\r\nX: y",
        "https://issuer.test/\tx",
        "https://issuer\u3002test/",
        "https://ıssuer.test/",
        "https://issuer.test/" + "x" * 2048,
        "https://issuer.test%2f@127.0.0.1/",
        "https://[::1/",
        "https://is suer.test/",
    ],
)
def test_a_url_that_is_not_taken(url: str) -> None:
    with pytest.raises(FetchError):
        place_of(url)


@given(st.text(max_size=60).map(lambda text: "https://" + text))
def test_any_url_is_read_in_one_way_or_refused(url: str) -> None:
    try:
        place = place_of(url)
    except FetchError:
        return
    assert place.target.startswith("/")
    assert url.isascii()
    assert "@" not in url.split("/")[2]
    assert not set(place.target) & set(" \r\n\t")


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.0.0.5",
        "169.254.169.254",
        "192.168.0.1",
        "::1",
        "fe80::1%eth0",
        "fd00:ec2::254",
        "::ffff:127.0.0.1",
    ],
)
async def test_a_name_that_leads_inside(address: str) -> None:
    async def resolve(_host: str, _port: int) -> list[str]:
        return [address]

    with pytest.raises(FetchError, match=ONE_SENTENCE):
        await Fetcher(NOWHERE_PRIVATE, resolve=resolve).get("https://issuer.test/jwks", tenant="a")


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "[::1]", "2130706433", "0x7f.1", "0177.0.0.1", "127.1", "localhost", "0"]
)
async def test_an_address_that_is_written_so_that_it_looks_like_none(host: str, tmp_path: Path) -> None:
    """By the system's own resolver: whatever it takes it for is what is looked at."""
    async with an_issuer(tmp_path) as issuer:
        with pytest.raises(FetchError, match=ONE_SENTENCE):
            await Fetcher(NOWHERE_PRIVATE, authority=issuer.authority).get(f"https://{host}:{issuer.port}/", tenant="a")
        assert issuer.asked == []


async def test_one_private_address_among_public_ones_spoils_the_name() -> None:
    async def resolve(_host: str, _port: int) -> list[str]:
        return ["1.1.1.1", "127.0.0.1"]

    with pytest.raises(FetchError, match=ONE_SENTENCE):
        await Fetcher(NOWHERE_PRIVATE, resolve=resolve).get("https://issuer.test/jwks", tenant="a")


async def test_a_name_that_answers_otherwise_the_second_time_is_not_asked_twice(tmp_path: Path) -> None:
    """DNS rebinding: what was looked at is what is connected to."""
    async with an_issuer(tmp_path) as issuer:
        issuer.addresses = [["127.0.0.1"], ["10.0.0.5"]]
        assert await issuer.fetcher(HERE).get(issuer.url, tenant="a") == b"{}"
        assert len(issuer.resolved) == 1
        with pytest.raises(FetchError, match=ONE_SENTENCE):
            await issuer.fetcher(HERE).get(issuer.url, tenant="a")
        assert len(issuer.asked) == 1


async def test_what_a_name_of_the_operators_network_is_cannot_be_told_from_one_that_is_not_there() -> None:
    async def nothing(_host: str, _port: int) -> list[str]:
        raise OSError("Name or service not known")

    async def inside(_host: str, _port: int) -> list[str]:
        return ["10.0.0.5"]

    told = set()
    for resolve in (nothing, inside):
        with pytest.raises(FetchError) as refused:
            await Fetcher(NOWHERE_PRIVATE, resolve=resolve).get("https://vault.corp.test/", tenant="a")
        told.add(str(refused.value))
    assert told == {ONE_SENTENCE}


async def test_a_public_address_is_asked_on_one_port_only() -> None:
    async def resolve(_host: str, _port: int) -> list[str]:
        return ["1.1.1.1"]

    with pytest.raises(FetchError, match=ONE_SENTENCE):
        await Fetcher(NOWHERE_PRIVATE, resolve=resolve).get("https://issuer.test:22/", tenant="a")


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
async def test_a_redirect_is_not_followed(tmp_path: Path, status: str) -> None:
    async with an_issuer(tmp_path) as issuer:
        issuer.says = answer(status=status, location=f"https://127.0.0.1:{issuer.port}/other")
        with pytest.raises(FetchError, match="redirects are not followed"):
            await issuer.fetcher().get(issuer.url, tenant="a")
        assert len(issuer.asked) == 1


async def test_a_certificate_that_nobody_vouches_for(tmp_path: Path) -> None:
    async with an_issuer(tmp_path) as issuer:
        with pytest.raises(FetchError, match="certificate is not trusted"):
            await issuer.fetcher(authority=None).get(issuer.url, tenant="a")
        with pytest.raises(FetchError, match="certificate is not trusted"):  # another name than its own
            await issuer.fetcher().get(f"https://issuer.elsewhere.test:{issuer.port}/", tenant="a")
        assert issuer.asked == []


@pytest.mark.parametrize(
    "says",
    [
        answer(b"x" * (BODY_BYTES_MAX + 1)),
        answer(b"", content_length=str(2**40)) + b"x" * (BODY_BYTES_MAX + 65_536),
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (BODY_BYTES_MAX + 1),
        b"HTTP/1.1 200 OK\r\nx: " + b"x" * 100_000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 50,
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{}",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
        answer(gzip.compress(b"x" * 10_000_000), content_encoding="gzip"),
    ],
    ids=[
        "long",
        "long by its word",
        "endless",
        "a long head",
        "continues",
        "cut off",
        "not HTTP",
        "two lengths",
        "a bomb",
    ],
)
async def test_an_answer_that_is_not_taken(tmp_path: Path, says: bytes) -> None:
    async with an_issuer(tmp_path) as issuer:
        issuer.says = says
        with pytest.raises(FetchError):
            await issuer.fetcher().get(issuer.url, tenant="a")


async def test_who_never_answers_is_given_up(tmp_path: Path) -> None:
    async with an_issuer(tmp_path) as issuer:
        issuer.says = b""
        with pytest.raises(FetchError, match="did not answer within"):
            await issuer.fetcher(timeout_s=0.2).get(issuer.url, tenant="a")
        issuer.says, issuer.is_hanging_up = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{", False
        with pytest.raises(FetchError, match="did not answer within"):
            await issuer.fetcher(timeout_s=0.2).get(issuer.url, tenant="a")


async def test_a_name_that_never_resolves_is_given_up() -> None:
    async def resolve(_host: str, _port: int) -> list[str]:
        await asyncio.Event().wait()
        raise AssertionError

    with pytest.raises(FetchError, match="did not answer within"):
        await Fetcher(NOWHERE_PRIVATE, resolve=resolve, timeout_s=0.1).get("https://issuer.test/", tenant="a")


async def test_the_slow_names_of_one_project_delay_only_its_own(tmp_path: Path) -> None:
    """Of what is asked at once it has a share."""
    end = asyncio.Event()
    slow: list[str] = []

    async def resolve(host: str, _port: int) -> list[str]:
        if host.startswith("slow"):
            slow.append(host)
            await end.wait()
        return ["127.0.0.1"]

    async with an_issuer(tmp_path) as issuer:
        fetcher = Fetcher(HERE, authority=issuer.authority, resolve=resolve, timeout_s=60.0)
        many = [asyncio.create_task(fetcher.get(f"https://slow-{n}.test/", tenant="a")) for n in range(3 * FETCHES_MAX)]
        assert await fetcher.get(issuer.url, tenant="b") == b"{}"
        assert len(slow) == SHARE
        for task in many:
            task.cancel()
        end.set()
        await asyncio.gather(*many, return_exceptions=True)


async def test_a_turn_ends_with_its_look_up_and_the_wait_for_one_is_not_held_against_who_is_asked() -> None:
    """A look-up that was given up still has its thread. Who waits for it has not been asked yet."""
    end = asyncio.Event()
    resolved: list[str] = []

    async def resolve(host: str, _port: int) -> list[str]:
        resolved.append(host)
        await end.wait()
        return ["10.0.0.5"]

    fetcher = Fetcher(NOWHERE_PRIVATE, resolve=resolve, timeout_s=0.05)
    others = [asyncio.create_task(fetcher.get(f"https://slow-{n}.test/", tenant="a")) for n in range(SHARE)]
    last = asyncio.create_task(fetcher.get("https://last.test/", tenant="a"))
    given_up = await asyncio.gather(*others, return_exceptions=True)
    assert all("did not answer" in str(error) for error in given_up)
    assert (last.done(), len(resolved)) == (False, SHARE)
    end.set()
    with pytest.raises(FetchError):
        await last
    assert resolved[-1] == "last.test"
