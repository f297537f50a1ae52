"""The key of the control database's dumps: one, under the root key alone, and never open before the log has it."""

import json
import os
from pathlib import Path

import asyncpg
import msgspec
import pytest

from cloister.base.errors import PreconditionError
from cloister.trust.keys import platform
from cloister.trust.keys.commands import DumpKeyInfo
from cloister.trust.keys.keeper import Keeper
from cloister.trust.keys.memory import SecretPage
from cloister.trust.keys.providers import Provider
from cloister.trust.keys.providers.provider import KeyDamagedError
from cloister.trust.keys.roots import Roots
from tests.fix_database import DatabaseAs
from tests.trust.keys.rig import AGENT, Rig, shows


@pytest.fixture
async def rig(tmp_path: Path, database_as: DatabaseAs) -> Rig:
    return Rig(tmp_path, await database_as("cloister_keys"))


async def taken(keeper: Keeper) -> tuple[DumpKeyInfo, bytes]:
    info, descriptor = await keeper.dump_key("back_up", AGENT)
    try:
        return info, bytes.fromhex(os.pread(descriptor, 100, 0).decode())
    finally:
        os.close(descriptor)


def opened(content: bytes, *roots: Provider) -> bytes:
    with SecretPage(32) as page:
        platform.open_into(platform.parse(content), Roots(roots[0], roots[1:]), page.buffer)
        return bytes(page.buffer)


async def test_it_is_one_and_its_envelope_and_the_root_key_are_enough(rig: Rig) -> None:
    info, key = await taken(rig.keeper())
    again, same = await taken(rig.keeper())
    assert (again, same) == (info, key)
    assert opened(info.envelope, rig.root()) == key
    assert info.envelope == (rig.keystore_directory / platform.FILE).read_bytes()
    assert not shows(info.envelope, key)
    envelope = platform.parse(info.envelope)
    for before in range(3):
        told = msgspec.structs.replace(envelope, wrapped=bytes(before) + key + envelope.wrapped)
        assert shows(msgspec.json.encode(told), key), "the search finds what is there"
    assert (rig.keystore_directory / platform.FILE).stat().st_mode & 0o777 == 0o600


async def test_no_other_root_key_opens_it_and_nothing_in_it_can_be_changed(rig: Rig) -> None:
    info, _ = await taken(rig.keeper())
    with pytest.raises(PreconditionError, match="the broker holds"):
        opened(info.envelope, rig.root("another"))
    envelope = platform.parse(info.envelope)
    for change in ({"material": envelope.material % 7 + 1}, {"made_at": "2020"}, {"wrapped": bytes(60)}):
        with pytest.raises(KeyDamagedError):
            opened(msgspec.json.encode(msgspec.structs.replace(envelope, **change)), rig.root())


@pytest.mark.parametrize("content", [b"", b"{}", b"[" * 100_000, b'{"format": 2}'])
def test_what_is_no_envelope_is_refused(content: bytes) -> None:
    with pytest.raises(PreconditionError):
        platform.parse(content)


async def test_each_use_is_in_the_log(rig: Rig, database_as: DatabaseAs) -> None:
    info, _ = await taken(rig.keeper())
    await taken(rig.keeper())
    async with (await database_as("cloister_api")).reading() as tx:
        bodies = [json.loads(row["body"]) for row in await tx.fetch("SELECT body FROM audit_event ORDER BY seq")]
    resource = f"dumps/{info.material}"
    assert [(it["action"], it["resource"], it.get("reason", "")) for it in bodies] == [
        ("key.create", resource, ""),
        ("key.unwrap", resource, "back_up"),
        ("key.unwrap", resource, "back_up"),
    ]
    assert {it["actor"] for it in bodies} == {"platform:agent"}


async def test_a_use_that_cannot_be_recorded_opens_nothing(
    rig: Rig, database_as: DatabaseAs, monkeypatch: pytest.MonkeyPatch
) -> None:
    await taken(rig.keeper())
    opened: list[object] = []
    monkeypatch.setattr(platform, "open_into", lambda *arguments: opened.append(arguments))
    async with (await database_as("postgres")).transaction() as tx:
        await tx.execute("REVOKE EXECUTE ON FUNCTION audit_append(text[], text[]) FROM cloister_keys")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await taken(rig.keeper())
    assert opened == []


async def test_it_goes_under_the_root_key_of_today(rig: Rig) -> None:
    info, key = await taken(rig.keeper())
    moved, same = await taken(rig.keeper(rig.root("next"), rig.root()))
    assert same == key
    assert moved.material == info.material
    assert opened(moved.envelope, rig.root("next")) == key
    assert (await taken(rig.keeper(rig.root("next"))))[1] == key


async def test_one_that_would_not_open_again_is_not_kept(rig: Rig) -> None:
    with pytest.raises(KeyDamagedError, match="does not give back"):
        await taken(rig.keeper(rig.mistaken_root()))
    assert not (rig.keystore_directory / platform.FILE).exists()
    known = await taken(rig.keeper())
    with pytest.raises(KeyDamagedError, match="does not give back"):
        await taken(rig.keeper(rig.mistaken_root("next"), rig.root()))
    assert await taken(rig.keeper()) == known, "what it was to replace stays"


async def test_where_no_root_key_opens_it_any_more_there_is_another(rig: Rig) -> None:
    info, key = await taken(rig.keeper())
    later, other = await taken(rig.keeper(rig.root("next")))
    assert later.material != info.material
    assert other != key
