"""The way to the other end: checked, connected to as it was checked, over TLS with a verified certificate."""

from ipaddress import ip_address
from pathlib import Path

import pytest

from cloister.base.errors import BadRequestError, ForbiddenError, UnavailableError
from cloister.node.egress import outside
from cloister.node.egress.outside import is_own, reach, trusting
from tests.node.egress.far import LOOPBACK, NAME, Far, always


async def test_it_speaks_tls_with_who_proves_to_be_it(far: Far) -> None:
    there = await reach(NAME, far.port, trusting(far.ca_pem), LOOPBACK, resolve=always("127.0.0.1"))
    there.writer.write(b"hello")
    assert await there.reader.readexactly(15) == b"over TLS: hello"
    assert there.address == "127.0.0.1"
    assert far.requests == [b"\x00\x00\x00\x08\x04\xd2\x16\x2f"]
    there.writer.close()


@pytest.mark.parametrize("name", ["db.other.example", "far.example.org"])
async def test_a_certificate_for_another_name_is_refused(far: Far, name: str) -> None:
    with pytest.raises(UnavailableError) as refused:
        await reach(name, far.port, trusting(far.ca_pem), LOOPBACK, resolve=always("127.0.0.1"))
    assert "is not trusted" in refused.value.public


async def test_a_certificate_of_another_authority_is_refused(far: Far, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for context in (trusting(None), trusting(Far(elsewhere).ca_pem)):
        with pytest.raises(UnavailableError) as refused:
            await reach(NAME, far.port, context, LOOPBACK, resolve=always("127.0.0.1"))
        assert "is not trusted" in refused.value.public


@pytest.mark.parametrize("answer", [b"N", b"E", b"R", b""])
async def test_nothing_leaves_in_clear(far: Far, answer: bytes) -> None:
    far.answer = answer
    with pytest.raises(UnavailableError) as refused:
        await reach(NAME, far.port, trusting(far.ca_pem), LOOPBACK, resolve=always("127.0.0.1"))
    assert "does not offer TLS" in refused.value.public


async def test_what_was_put_behind_the_answer_breaks_the_handshake(far: Far) -> None:
    """CVE-2021-23222: bytes of a man in the middle, taken for the server's first words under TLS."""
    far.answer = b"SR\0\0\0\x08\0\0\0\0"
    with pytest.raises(UnavailableError) as refused:
        await reach(NAME, far.port, trusting(far.ca_pem), LOOPBACK, resolve=always("127.0.0.1"))
    assert "could not be spoken to over TLS" in refused.value.public


async def test_who_is_not_there_does_not_answer(far: Far) -> None:
    with pytest.raises(UnavailableError) as refused:
        await reach(NAME, 1, trusting(None), LOOPBACK, resolve=always("127.0.0.1"))
    assert "does not answer" in refused.value.public
    with pytest.raises(UnavailableError) as refused:
        await reach("no-such-name.invalid", 1, trusting(None), LOOPBACK, resolve=_failing)
    assert "could not be resolved" in refused.value.public


async def _failing(_host: str, _port: int) -> list[str]:
    raise OSError("no such name")


@pytest.mark.parametrize("address", ["127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "::ffff:127.0.0.1", "fd00::1"])
async def test_a_name_or_address_that_leads_inside_is_refused_before_a_packet_leaves(far: Far, address: str) -> None:
    for host, resolve in ((address, always()), (NAME, always(address)), (NAME, always("203.0.113.7", address))):
        with pytest.raises(ForbiddenError) as refused:
            await reach(host, far.port, trusting(None), (), resolve=resolve)
        assert "leads to" in refused.value.public
    assert far.requests == []


async def test_a_name_is_asked_for_once_so_a_second_answer_gains_nothing(far: Far) -> None:
    """DNS rebinding: the address that was checked is the one that is connected to."""
    answers = [["127.0.0.1"], ["10.0.0.1"]]

    async def rebinding(_host: str, _port: int) -> list[str]:
        return answers.pop(0)

    there = await reach(NAME, far.port, trusting(far.ca_pem), LOOPBACK, resolve=rebinding)
    assert answers == [["10.0.0.1"]]
    assert there.address == "127.0.0.1"
    there.writer.close()


async def test_a_public_address_that_is_this_machines_own_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The platform's own ports stand there, and the table cannot know it."""
    monkeypatch.setattr(outside, "is_own", lambda address: str(address) == "203.0.113.7")
    with pytest.raises(ForbiddenError) as refused:
        await reach(NAME, 5432, trusting(None), (), resolve=always("203.0.113.7"))
    assert refused.value.public.endswith("leads to the server itself")


async def test_an_address_with_a_scope_is_the_address(far: Far) -> None:
    with pytest.raises(ForbiddenError):
        await reach(NAME, far.port, trusting(None), (), resolve=always("fe80::1%lo"))


def test_the_kernel_says_which_addresses_are_this_machines() -> None:
    assert is_own(ip_address("127.0.0.1"))
    assert is_own(ip_address("127.9.9.9"))
    assert not is_own(ip_address("203.0.113.7"))
    assert not is_own(ip_address("2001:db8::7"))


@pytest.mark.parametrize("text", ["", "no PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "é"])
def test_a_ca_without_a_certificate_is_refused(text: str) -> None:
    with pytest.raises(BadRequestError):
        trusting(text)
