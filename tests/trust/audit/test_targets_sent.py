"""Events into a bucket and to OpenTelemetry: all of them, in order, and not one taken for sent that was not."""

import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from cloister.trust.audit import forwarder
from cloister.trust.audit.forwarder import OBJECT_ROWS
from cloister.trust.audit.targets import Otlp
from tests.fix_database import DatabaseAs
from tests.trust.audit.test_forwarder import Receiver, World, sequence
from tests.trust.sending.store import BUCKET, a_store
from tests.trust.sentinel.receiver import make_certificate


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("receiver") / "both.pem"
    make_certificate(path)
    return path


@pytest.fixture
def world(database_as: DatabaseAs, tmp_path: Path, certificate: Path) -> World:
    return World(database_as, tmp_path / "exports.json", Receiver(certificate))


def otlp(receiver: Receiver, certificate: Path, **changes: Any) -> Otlp:
    given: dict[str, Any] = {"name": "otel", "after": 0, "url": f"https://127.0.0.1:{receiver.port}/v1/logs"}
    return Otlp(
        **(given | {"headers": {"Authorization": "Bearer t"}, "ca_file": str(certificate), "private": True} | changes)
    )


async def test_a_batch_is_what_opentelemetry_defines(world: World, certificate: Path) -> None:
    """Read by its authors' own messages, which know no field that is not theirs."""
    receiver = world.receiver
    await world.append(3)
    async with receiver.open(receiver.webhook):
        target = otlp(receiver, certificate)
        await (await world.begin(target)).step()
    assert (await world.at(target)).seq == 3
    assert b"authorization: bearer t" in receiver.heads[0].lower()
    (body,) = receiver.bodies
    sent = json_format.Parse(body, ExportLogsServiceRequest())
    (logs,) = sent.resource_logs
    assert {each.key: each.value.string_value for each in logs.resource.attributes}["service.name"] == "cloister"
    records = list(logs.scope_logs[0].log_records)
    events = [json.loads(each.body.string_value) for each in records]
    assert sequence(events) == [1, 2, 3]
    for record, event in zip(records, events, strict=True):
        found = {each.key: each.value for each in record.attributes}
        assert found["cloister.audit.seq"].int_value == event["metadata"]["sequence"]
        assert found["cloister.audit.uid"].string_value == event["metadata"]["uid"]
        assert (record.event_name, record.severity_text, record.severity_number) == ("project.get", "INFO", 9)
        assert record.time_unix_nano // 10**6 == event["time"]


async def test_a_collector_that_took_less_than_all_is_sent_all_again(world: World, certificate: Path) -> None:
    """It is shown as failing until then; nothing is skipped."""
    receiver = world.receiver
    await world.append(3)
    said = b'{"partialSuccess":{"rejectedLogRecords":"2","errorMessage":"too old"}}'
    receiver.answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(said), said)
    async with receiver.open(receiver.webhook):
        target = otlp(receiver, certificate)
        await (await world.begin(target)).step()
        failing = await world.at(target)
        assert (failing.seq, failing.behind) == (0, 3)
        assert "rejected 2 events: too old" in failing.state
        receiver.answer = b'HTTP/1.1 200 OK\r\nContent-Length: 21\r\n\r\n{"partialSuccess":{}}'
        await (await world.begin(target)).step()
    assert (await world.at(target)).seq == 3


async def test_a_bucket_gets_every_event_in_objects_that_nobody_can_delete(
    world: World, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.append(OBJECT_ROWS + 5)
    with a_store(certificate) as store:
        target = store.s3(retain_days=30)
        await (await world.begin(target)).step()
        assert "answered 404 NoSuchBucket" in (await world.at(target)).error
        store.make()
        await (await world.begin(target)).step()
        assert (await world.at(target)).behind == 5, "an object is full, or its first event has waited"
        monkeypatch.setattr(forwarder, "OBJECT_WAIT_S", 0.0)
        await (await world.begin(target)).step()
        assert (await world.at(target)).behind == 0
        keys = [each["Key"] for each in store.client.list_objects_v2(Bucket=BUCKET)["Contents"]]
        assert keys == [f"log/events/{a:019}-{b:019}.ndjson" for a, b in ((1, 2000), (2001, 2005))]
        found = [store.client.get_object(Bucket=BUCKET, Key=key) for key in keys]
        assert {each["ObjectLockMode"] for each in found} == {"COMPLIANCE"}
        events = [json.loads(line) for each in found for line in each["Body"].read().splitlines()]
        assert sequence(events) == list(range(1, OBJECT_ROWS + 6))
