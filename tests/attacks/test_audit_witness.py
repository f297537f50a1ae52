"""The whole server put back to yesterday, broker and all, by somebody who also has the credentials of the bucket with object lock.

Nothing on the server can show it. The checkpoints in the bucket do: they can be hidden and covered, and neither helps.
"""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psycopg
import pytest
from botocore.exceptions import ClientError

from cloister.app import sentinel
from cloister.app.process import Process
from cloister.base.database import Database
from cloister.trust.audit import forwarder
from cloister.trust.audit.forwarder import Forwarder, attempt
from cloister.trust.audit.targets import Witness
from cloister.trust.keys.notary import read_last
from tests.attacks.signed_log import EVENTS, SignedLog
from tests.trust.sending.store import BUCKET, Store, a_store
from tests.trust.sentinel.receiver import make_certificate
from tests.trust.sentinel.test_watch import found

PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    certificate = tmp_path_factory.mktemp("store") / "both.pem"
    make_certificate(certificate)
    with a_store(certificate) as store:
        yield store


class Witnessed:
    """The log, and a bucket of its own that gets its checkpoints."""

    def __init__(self, log: SignedLog, store: Store, bucket: str) -> None:
        self.log, self.store, self.bucket = log, store, bucket
        store.make(bucket)
        self.log.settings.paths.alerts.mkdir()
        self.say(store.witness(bucket=bucket, every_s=5))

    def say(self, target: Witness) -> None:
        self.log.settings.paths.audit_exports.write_bytes(msgspec.json.encode([target]))

    def put(self) -> None:
        """As the sentinel's process does, some minutes later."""

        async def step() -> None:
            database = Database(url=self.log.sentinel)
            await database.open()
            try:
                paths = self.log.settings.paths
                await Forwarder(
                    database, paths.audit_exports, origin="here", signed=lambda: read_last(paths.notary)
                ).step()
            finally:
                await database.close()

        self._let_time_pass()
        asyncio.run(step())

    def findings(self) -> list[str]:
        """What the sentinel's process raises while it asks the bucket again and again, and as often in vain."""

        async def watched() -> list[str]:
            process = Process(msgspec.structs.replace(self.log.settings, database_url=self.log.sentinel), 0, {})
            running = asyncio.create_task(sentinel.run(process))
            database = Database(url=self.log.sentinel)
            await database.open()
            try:
                async with asyncio.timeout(PATIENCE_S):
                    while not (rules := [rule for rule, _ in await found(database)]):  # noqa: ASYNC110 - another task does it
                        await asyncio.sleep(0.01)
            finally:
                process.stop.set()
                await running
                await database.close()
            return rules

        self._let_time_pass()
        return asyncio.run(watched())

    def _let_time_pass(self) -> None:
        self.log.sql("UPDATE cloister.audit_export SET sent_at = now() - interval '1 day'")

    def keys(self) -> list[str]:
        return [each["Key"] for each in self.store.client.list_object_versions(Bucket=self.bucket).get("Versions", [])]

    def state(self) -> str:
        """What `export-to list` and `status` show."""
        with psycopg.connect(self.log.url) as connection:
            found = connection.execute("SELECT error FROM cloister.audit_export WHERE name = 'kept'").fetchone()
        assert found is not None
        return str(found[0])

    def verify(self) -> tuple[int, str]:
        return self.log.audit("verify", "--witness", "kept")


@pytest.fixture
def witnessed(signed_log: SignedLog, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Witnessed:
    monkeypatch.setattr(forwarder, "RETRY_FIRST_S", 0.0)
    monkeypatch.setattr(forwarder, "IDLE_S", 0.01)
    return Witnessed(signed_log, store, f"{BUCKET}-{tmp_path.name.replace('_', '-')[-40:].strip('-')}")


def test_a_log_that_only_grew_extends_all_that_its_witness_saw(witnessed: Witnessed) -> None:
    witnessed.put()
    witnessed.put()
    assert len(witnessed.keys()) == 1, "nothing new, nothing put"
    witnessed.log.append(9)
    witnessed.log.sign()
    witnessed.put()
    code, said = witnessed.verify()
    assert (code, said.splitlines()[1:3]) == (
        0, ["signed: the first 609", f"witness: extends all 2 checkpoints in s3://{witnessed.bucket}/log/, the newest of 609 events"],
    )  # fmt: skip


def test_a_server_put_back_whole_is_found_whatever_is_done_to_the_bucket(witnessed: Witnessed, tmp_path: Path) -> None:
    log, client = witnessed.log, witnessed.store.client
    yesterday = shutil.copytree(log.settings.paths.notary, tmp_path / "yesterday")
    witnessed.put()
    log.append(50)
    log.sign()
    witnessed.put()
    new = max(witnessed.keys())
    log.roll_back_with_the_notary(yesterday, EVENTS)
    assert log.audit("verify")[0] == 0, "here nothing is wrong"
    code, said = witnessed.verify()
    assert (code, "BROKEN at event 601 (rolled back)" in said) == (1, True)
    # What was put cannot be deleted; it can be hidden, and another object put over it.
    (version,) = [
        each for each in client.list_object_versions(Bucket=witnessed.bucket)["Versions"] if each["Key"] == new
    ]
    with pytest.raises(ClientError):
        client.delete_object(Bucket=witnessed.bucket, Key=new, VersionId=version["VersionId"])
    client.delete_object(Bucket=witnessed.bucket, Key=new)
    assert new not in [each["Key"] for each in client.list_objects_v2(Bucket=witnessed.bucket)["Contents"]]
    assert witnessed.verify()[0] == 1
    # Grown again, signed by the true key: nobody has asked yet, and the witness is shown as failing.
    log.append(7)
    log.sign()
    witnessed.put()
    assert witnessed.state().endswith(
        "has a checkpoint of 650 events, and 607 are signed here: the log was rolled back"
    )
    assert witnessed.findings() == ["witness-disagrees"]
    # Grown past what there was.
    log.append(100)
    log.sign()
    witnessed.put()
    assert log.audit("verify")[0] == 0
    code, said = witnessed.verify()
    assert (code, "BROKEN at event 650 (rolled back)" in said) == (1, True)


def test_an_invented_checkpoint_is_named_and_an_empty_bucket_vouches_for_nothing(witnessed: Witnessed) -> None:
    log, client = witnessed.log, witnessed.store.client
    code, said = witnessed.verify()
    assert (code, "has no checkpoint" in said) == (1, True)
    witnessed.put()
    assert witnessed.verify()[0] == 0
    invented = f"log/checkpoints/{300:019}-{'ab' * 32}"
    client.put_object(Bucket=witnessed.bucket, Key=invented, Body=b"not a note")
    beyond = f"log/checkpoints/{10**9:019}-{'ab' * 32}"
    client.put_object(Bucket=witnessed.bucket, Key=beyond, Body=b"not a note")
    log.append(1)
    log.sign()
    witnessed.put()
    assert witnessed.state() == ""
    client.delete_object(
        Bucket=witnessed.bucket,
        Key=beyond,
        VersionId=client.head_object(Bucket=witnessed.bucket, Key=beyond)["VersionId"],
    )
    code, said = witnessed.verify()
    assert code == 1
    assert f"{invented}: not a signed note" in said
    assert log.audit("verify", "--witness", "nobody")[0] == 1


def test_a_bucket_without_object_lock_is_no_witness(witnessed: Witnessed, store: Store) -> None:
    """It takes nothing, and says so, which is a finding; and what somebody put there unlocked is not believed."""
    log, loose = witnessed.log, f"{witnessed.bucket[:50]}-loose"
    witnessed.put()
    (key,) = witnessed.keys()
    note = store.client.get_object(Bucket=witnessed.bucket, Key=key)["Body"].read()
    store.make(loose, locks=False)
    target = store.witness(bucket=loose)
    witnessed.say(target)
    signed = read_last(log.settings.paths.notary)
    assert "ObjectLock" in asyncio.run(attempt(target, [], signed=signed))
    log.append(1)
    log.sign()
    assert witnessed.findings() == ["lock-missing"]
    assert store.client.list_objects_v2(Bucket=loose).get("Contents") is None
    store.client.put_object(Bucket=loose, Key=key, Body=note)
    code, said = witnessed.verify()
    assert (code, "is not locked" in said) == (1, True)
