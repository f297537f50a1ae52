"""What every provider of root keys must do, whoever holds the key; and what happens when it goes away in the middle."""

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from cloister.base.database import Database
from cloister.base.errors import PreconditionError
from cloister.trust.keys.keeper import Keeper
from cloister.trust.keys.providers import (
    Context,
    FileProvider,
    KeyDamagedError,
    PassphraseProvider,
    Provider,
    create_passphrase,
    create_root_key,
)
from cloister.trust.keys.providers.aws import AwsProvider
from cloister.trust.keys.providers.pkcs11 import Pkcs11Provider
from cloister.trust.keys.providers.provider import ProviderUnavailableError
from cloister.trust.keys.providers.vault import VaultProvider
from tests.fix_database import DatabaseAs
from tests.trust.keys import provider_hosts as hosts
from tests.trust.keys.rig import ALICE, Rig, read_key

HERE: Final = Context("calm-forest-12345678", "project", 1)
SECRET: Final = bytes(range(32))
PASSPHRASE: Final = b"correct horse battery staple"

LOCAL: Final = ("file", "passphrase")
REMOTE: Final = ("pkcs11", "aws-kms", "vault")


@dataclass
class Host:
    provider: Provider
    go_away: Callable[[], None]
    come_back: Callable[[], None]


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("hsm")
    before = os.environ.pop("SOFTHSM2_CONF", None)
    hosts.hsm(directory, "root-1")
    hosts.hsm(directory, "soft", extractable=True)
    yield directory
    os.environ.pop("SOFTHSM2_CONF")
    if before is not None:
        os.environ["SOFTHSM2_CONF"] = before


@pytest.fixture(scope="module")
def passphrase(tmp_path_factory: pytest.TempPathFactory) -> PassphraseProvider:
    path = tmp_path_factory.mktemp("passphrase") / "root.json"
    create_passphrase(path, bytearray(PASSPHRASE), uid=os.geteuid(), gid=os.getegid())
    return PassphraseProvider(path, bytearray(PASSPHRASE))


@pytest.fixture
def host(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokens: Path
) -> Iterator[Host]:
    with ExitStack() as stack:
        nothing: Callable[[], None] = lambda: None  # noqa: E731
        match request.param:
            case "file":
                create_root_key(tmp_path / "contract.key", uid=os.geteuid(), gid=os.getegid())
                yield Host(FileProvider(tmp_path / "contract.key"), nothing, nothing)
            case "passphrase":
                yield Host(request.getfixturevalue("passphrase"), nothing, nothing)
            case "pkcs11":
                provider = hosts.hsm_provider(tokens, "root-1")
                real = provider._found

                def removed() -> object:
                    raise provider._pkcs11.exceptions.DeviceRemoved

                def go_away() -> None:
                    provider._key = None
                    monkeypatch.setattr(provider, "_found", removed)

                yield Host(provider, go_away, lambda: monkeypatch.setattr(provider, "_found", real))
            case "aws-kms":
                aws, server, _ = stack.enter_context(hosts.aws(tmp_path, monkeypatch))
                server._port = server.get_host_and_port()[1]
                come_back: Callable[[], None] = server.start

                yield Host(aws, server.stop, come_back)
            case "vault":
                vault, fake = stack.enter_context(hosts.vault(tmp_path))
                yield Host(vault, lambda: setattr(fake, "status", 503), lambda: setattr(fake, "status", 200))


def every(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("host", names, indirect=True)


def opened(provider: Provider, wrapped: bytes, context: Context) -> bytes:
    buffer = bytearray(len(SECRET))
    provider.unwrap_into(wrapped, context, memoryview(buffer))
    return bytes(buffer)


@every(*LOCAL, *REMOTE)
def test_what_is_wrapped_opens_for_what_it_is_for_and_for_nothing_else(host: Host) -> None:
    wrapped = host.provider.wrap(memoryview(SECRET), HERE)
    assert SECRET not in wrapped
    assert opened(host.provider, wrapped, HERE) == SECRET
    assert host.provider.wrap(memoryview(SECRET), HERE) != wrapped, "twice is two envelopes"
    others = (
        Context("calm-forest-87654321", "project", 1),
        Context(HERE.project_id, "volume", 1),
        Context(HERE.project_id, "project", 2),
        Context("", "notary", 1),
    )
    for other in others:
        with pytest.raises(KeyDamagedError):
            opened(host.provider, wrapped, other)


@every(*LOCAL, *REMOTE)
def test_an_envelope_that_was_changed_does_not_open_and_leaves_nothing(host: Host) -> None:
    wrapped = host.provider.wrap(memoryview(SECRET), HERE)
    last = wrapped[:-2] + bytes([wrapped[-2] ^ 1]) + wrapped[-1:]
    for damaged in (last, wrapped[:-4], b"", b"noise"):
        buffer = bytearray(len(SECRET))
        with pytest.raises(KeyDamagedError):
            host.provider.unwrap_into(damaged, HERE, memoryview(buffer))
        assert bytes(buffer) == bytes(len(SECRET))
    assert opened(host.provider, wrapped, HERE) == SECRET, "and the next one opens as before"


@every(*LOCAL, *REMOTE)
def test_a_key_of_another_length_is_no_key_of_ours(host: Host) -> None:
    wrapped = host.provider.wrap(memoryview(SECRET[:16]), HERE)
    with pytest.raises(KeyDamagedError):
        opened(host.provider, wrapped, HERE)


@every(*REMOTE)
def test_one_that_is_away_says_so_and_not_that_the_key_is_damaged(host: Host) -> None:
    wrapped = host.provider.wrap(memoryview(SECRET), HERE)
    host.go_away()
    for call in (host.provider.wrap, lambda _, context: opened(host.provider, wrapped, context)):
        with pytest.raises(ProviderUnavailableError) as refused:
            call(memoryview(SECRET), HERE)
        assert refused.value.may_retry
        assert refused.value.public.endswith("does not answer")
    host.come_back()
    assert opened(host.provider, wrapped, HERE) == SECRET


@pytest.fixture
async def database(database_as: DatabaseAs) -> Database:
    return await database_as("cloister_keys")


@every(*REMOTE)
async def test_an_outage_in_a_wake_is_waited_for_and_then_said(
    host: Host, tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes back while a wake waits: the wake goes on. It does not: the wake fails, with a sentence."""
    monkeypatch.setattr("cloister.trust.keys.patience._RETRY_S", 0.01)
    rig = Rig(tmp_path, database)
    keeper = rig.keeper(host.provider, patience_s=60)
    await keeper.create(HERE.project_id, "volume", ALICE)
    key = await read_key(keeper, HERE.project_id)
    refusals = 0
    unwrap_into = host.provider.unwrap_into

    def counted(wrapped: bytes, context: Context, buffer: memoryview) -> None:
        nonlocal refusals
        try:
            unwrap_into(wrapped, context, buffer)
        except ProviderUnavailableError:
            refusals += 1
            raise

    monkeypatch.setattr(host.provider, "unwrap_into", counted)
    host.go_away()
    waiting = asyncio.create_task(read_key(keeper, HERE.project_id))
    async with asyncio.timeout(60):
        while refusals < 2 and not waiting.done():  # noqa: ASYNC110 - what is waited for happens in a thread
            await asyncio.sleep(0.01)
    refused = rig.keeper(host.provider, patience_s=0)
    with pytest.raises(ProviderUnavailableError):
        await read_key(refused, HERE.project_id)
    assert not waiting.done()
    host.come_back()
    assert await waiting == key


@every("pkcs11", "aws-kms")
async def test_a_platform_moves_from_a_file_to_it_and_back(host: Host, tmp_path: Path, database: Database) -> None:
    rig = Rig(tmp_path, database)
    keeper = rig.keeper(rig.root())
    projects = [f"calm-forest-0000000{number}" for number in range(5)]
    for project in projects:
        await keeper.create(project, "volume", ALICE)
    before = [await read_key(keeper, project) for project in projects]
    await rig.keeper(host.provider, rig.root()).reconcile()
    moved = rig.keeper(host.provider)
    assert [await read_key(moved, project) for project in projects] == before
    await rig.keeper(rig.root("second"), host.provider).reconcile()
    host.go_away()
    back: Keeper = rig.keeper(rig.root("second"))
    assert [await read_key(back, project) for project in projects] == before


# -- each one's own


def test_a_key_that_the_hsm_would_give_out_is_refused(tokens: Path) -> None:
    with pytest.raises(PreconditionError, match="can be extracted"):
        hosts.hsm_provider(tokens, "soft").wrap(memoryview(SECRET), HERE)


def test_a_wrong_pin_and_a_key_that_is_not_there_are_refused(tokens: Path) -> None:
    with pytest.raises(PreconditionError) as refused:
        hosts.hsm_provider(tokens, "nothing").wrap(memoryview(SECRET), HERE)
    assert refused.value.public == "the HSM refuses its key: NoSuchKey"
    (tokens / "pin").chmod(0o644)
    with pytest.raises(PreconditionError, match="must be 0600"):
        Pkcs11Provider(hosts.LIBRARY, "cloister", "root-1", tokens / "pin")


def test_vault_is_not_asked_in_clear_across_a_network(tmp_path: Path) -> None:
    with pytest.raises(PreconditionError, match="asked by https"):
        VaultProvider("http://vault.example:8200", "cloister", tmp_path / "token")
    for name in ("../sys", "a/b", ""):
        with pytest.raises(PreconditionError, match="letters, digits"):
            VaultProvider("https://vault.example:8200", name, tmp_path / "token")


def test_vaults_token_is_read_anew_and_a_wrong_one_is_refused(tmp_path: Path) -> None:
    with hosts.vault(tmp_path) as (provider, _):
        wrapped = provider.wrap(memoryview(SECRET), HERE)
        hosts.private(tmp_path / "token", "expired")
        with pytest.raises(PreconditionError) as refused:
            opened(provider, wrapped, HERE)
        assert refused.value.public == "Vault refuses: 403"
        hosts.private(tmp_path / "token", hosts.TOKEN)
        assert opened(provider, wrapped, HERE) == SECRET


def test_a_key_that_aws_does_not_know_is_a_refusal_and_no_outage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hosts.aws(tmp_path, monkeypatch) as (_, server, arn):
        url = "http://{}:{}".format(*server.get_host_and_port())
        another = AwsProvider(arn[:-12] + "0" * 12, "eu-central-1", endpoint_url=url)
        with pytest.raises(PreconditionError) as refused:
            another.wrap(memoryview(SECRET), HERE)
        assert refused.value.public == "AWS KMS refuses: NotFoundException"
