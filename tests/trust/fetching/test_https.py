"""One question over HTTPS; what it refuses is in tests/attacks/test_fetching.py."""

from pathlib import Path

from cloister.trust.fetching import place_of
from tests.trust.fetching.issuer import NAME, an_issuer, answer


async def test_it_fetches_what_is_there(tmp_path: Path) -> None:
    async with an_issuer(tmp_path) as issuer:
        issuer.says = answer(b'{"keys":[]}')
        assert await issuer.fetcher().get(issuer.url, tenant="a") == b'{"keys":[]}'
        (asked,) = issuer.asked
        lines = asked.decode().lower().split("\r\n")
        assert lines[0] == "get /jwks.json?v=1 http/1.1"
        assert f"host: {NAME}:{issuer.port}" in lines
        assert not any(line.startswith(("authorization", "cookie")) for line in lines)


async def test_a_form_is_sent_with_who_sends_it(tmp_path: Path) -> None:
    async with an_issuer(tmp_path) as issuer:
        said = await issuer.fetcher().post_form(issuer.url, b"code=a", tenant="a", authorization="Basic eA==")
        assert said == b"{}"
        (asked,) = issuer.asked
        lines = asked.decode().lower().split("\r\n")
        assert lines[0] == "post /jwks.json?v=1 http/1.1"
        assert "content-length: 6" in lines
        assert "content-type: application/x-www-form-urlencoded" in lines
        assert "authorization: basic ea==" in lines


async def test_an_answer_in_chunks_or_until_the_end(tmp_path: Path) -> None:
    async with an_issuer(tmp_path) as issuer:
        issuer.says = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
        assert await issuer.fetcher().get(issuer.url, tenant="a") == b"{}"
        issuer.says = b"HTTP/1.1 200 OK\r\n\r\n{}"
        assert await issuer.fetcher().get(issuer.url, tenant="a") == b"{}"


async def test_another_address_of_the_name_is_tried(tmp_path: Path) -> None:
    async with an_issuer(tmp_path) as issuer:
        from cloister.base.ipallow import AllowList
        from cloister.trust.fetching import Reach

        issuer.addresses = [["127.43.43.43", "127.0.0.1"]]
        assert await issuer.fetcher(Reach(AllowList.parse(["127.0.0.0/8"]))).get(issuer.url, tenant="a") == b"{}"


def test_where_a_url_leads() -> None:
    place = place_of("https://Issuer.Example/.well-known/jwks.json")
    assert (place.host, place.port, place.target, place.authority) == (
        "issuer.example", 443, "/.well-known/jwks.json", "issuer.example",
    )  # fmt: skip
    assert place_of("https://[2606:4700::1]:8443").authority == "[2606:4700::1]:8443"
