"""What the agent does with volumes and computes, without either: plain directories, and computes that are a list."""

import asyncio
import contextlib
import os
import shutil
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import msgspec
import pytest

from cloister.base.errors import (
    BadRequestError,
    ConflictError,
    ExhaustedError,
    ForbiddenError,
    InternalError,
    NotFoundError,
    PreconditionError,
    UnavailableError,
    UnprocessableError,
)
from cloister.base.identities import COMPUTE_UID_FIRST, Service
from cloister.base.ids import TimelineId, new_branch_id, new_endpoint_id, new_project_id, new_timeline_id
from cloister.base.rpc import Client, Command, Connection, Peer
from cloister.base.settings import Settings
from cloister.node import agent as agent_module
from cloister.node import opening, space
from cloister.node.agent import NodeAgent
from cloister.node.backups.keeper import Outside
from cloister.node.commands import (
    AnyEvent,
    BackUpTimeline,
    CloneTimeline,
    CloseVolume,
    ComputeExited,
    ComputeInfo,
    ComputeSpec,
    CopyTimeline,
    CreateVolume,
    DeleteVolume,
    DumpSchema,
    FinishCopy,
    GetStatus,
    GetStore,
    GetTimeline,
    GetVolume,
    KeepHistory,
    ReadBack,
    RestoreTimeline,
    SchemaForm,
    SendWal,
    StartCompute,
    StopCompute,
)
from cloister.node.postgres.standby import Floor
from cloister.node.runs import Ran
from cloister.node.sandbox.cgroups import detect
from cloister.node.timelines import firsts, wal
from cloister.node.timelines.clone import BACKUP_LABEL
from cloister.node.timelines.making import Making
from cloister.node.volumes.plain import PlainDriver
from tests.node.backups.bucket import BackupKeys, Bucket
from tests.node.timelines.clusters import CHECKPOINT, make_cluster

PROJECT, OTHER = new_project_id(), new_project_id()
BRANCH, TIMELINE, OTHER_TIMELINE = new_branch_id(), new_timeline_id(), new_timeline_id()
THIRD_TIMELINE = new_timeline_id()
ENDPOINT, SECOND = new_endpoint_id(), new_endpoint_id()
UID = COMPUTE_UID_FIRST + 7
GIB = 1024**3


class NoKeys:
    async def unwrap(self, project_id: str, reason: str, *, material: int) -> int:
        raise AssertionError("a plain volume has no key")


class FakeEngines:
    def versions(self) -> dict[int, str]:
        return {18: "18.4"}

    def get(self, major: int) -> int:
        if major != 18:
            raise UnprocessableError(public="not offered")
        return major

    async def ensure_root(self, engine: int) -> None:
        raise AssertionError("nothing here is run")

    async def ensure_template(self, engine: int) -> None:
        await asyncio.sleep(0)

    def populate(self, engine: int, data_dir: Path, uid: int) -> None:
        make_cluster(data_dir)


class NoSingleUser:
    def sweep(self) -> None: ...

    async def run(self, *_arguments: Any, **_more: Any) -> Ran:
        raise AssertionError("nothing here is recovered")


class FakeComputes:
    def __init__(self, on_exit: Callable[[ComputeExited], None]) -> None:
        self.on_exit = on_exit
        self.infos: dict[str, ComputeInfo] = {}
        self.left_over: list[ComputeInfo] = []
        self.killed: list[str] = []
        self.refusal: Exception | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def start(self, spec: ComputeSpec, mountpoint: Path, *, floor: Floor | None = None) -> ComputeInfo:
        if self.refusal is not None:
            raise self.refusal
        assert (mountpoint / "timelines" / spec.timeline_id / "data" / "PG_VERSION").exists()
        self.infos[spec.endpoint_id] = info = running(spec.endpoint_id, timeline_id=spec.timeline_id)
        return info

    async def stop(self, endpoint_id: str) -> None:
        self.end(endpoint_id, was_asked=True)

    async def pool(self, endpoint_id: str, generation: int, role: str) -> str:
        if endpoint_id not in self.infos:
            raise NotFoundError(f"{endpoint_id} does not run")
        return f"/pool/{endpoint_id}/{generation}/{role}"

    async def kill_all_on(self, project_id: str) -> None:
        self.killed.append(project_id)
        for endpoint_id in [name for name, info in self.infos.items() if info.project_id == project_id]:
            self.end(endpoint_id, was_asked=False)

    async def adopt(self) -> None:
        self.infos = {info.endpoint_id: info for info in self.left_over}

    @contextlib.asynccontextmanager
    async def expecting(self) -> AsyncIterator[None]:
        yield

    def running(self) -> list[ComputeInfo]:
        return list(self.infos.values())

    def limits_description(self) -> str:
        return "v2"

    def end(self, endpoint_id: str, *, was_asked: bool) -> None:
        if self.infos.pop(endpoint_id, None) is not None:
            status = 0 if was_asked else 1
            self.on_exit(ComputeExited(endpoint_id=endpoint_id, generation=1, was_asked=was_asked, exit_status=status))


def running(endpoint_id: str, project_id: str = PROJECT, timeline_id: str = TIMELINE) -> ComputeInfo:
    return ComputeInfo(
        endpoint_id=endpoint_id,
        project_id=project_id,
        branch_id=BRANCH,
        timeline_id=timeline_id,
        generation=1,
        socket_dir="/nowhere",
        pid=1,
    )


def spec(endpoint_id: str = ENDPOINT) -> ComputeSpec:
    return ComputeSpec(
        endpoint_id=endpoint_id,
        project_id=PROJECT,
        branch_id=BRANCH,
        timeline_id=TIMELINE,
        pg_version=18,
        uid=UID,
        cpu_cores=1,
        memory_bytes=GIB,
    )


CREATE = CreateVolume(project_id=PROJECT, timeline_id=TIMELINE, pg_version=18, uid=UID, size_bytes=GIB)


class Node:
    """An agent, its computes, and somebody who asks."""

    def __init__(self, settings: Settings, backups: Outside | None = None) -> None:
        self.computes: FakeComputes

        def make(on_exit: Callable[[ComputeExited], None]) -> FakeComputes:
            self.computes = FakeComputes(on_exit)
            return self.computes

        self.settings = settings
        self.agent = NodeAgent(
            settings,
            broker=NoKeys(),
            engines=FakeEngines(),
            make_computes=make,
            dumps=self,
            single_user=NoSingleUser(),
            backups=backups,
        )

    async def schema(self, compute: ComputeInfo, major: int, database: str, form: SchemaForm) -> bytes:
        """In place of `node/dumps.py`."""
        return f"{compute.endpoint_id} {major} {form} {database}".encode()

    async def ask(self, command: Command[Any], caller: Service = Service.API) -> Any:
        """As if `caller` had sent it; who it really is, is the RPC server's business and tested there."""
        connection = cast("Connection", type("Caller", (), {"peer": Peer(1, 1, caller)})())
        return await self.agent._answer(connection, cast("Any", command))

    async def is_open(self) -> bool:
        return bool((await self.ask(GetVolume(PROJECT))).is_open)

    async def settled(self) -> None:
        """Until everything that events caused is done."""
        while tasks := {*self.agent._tasks, *self.agent._timelines._work._tasks[PROJECT]}:
            await asyncio.gather(*tasks)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(space, "FREE_TO_CREATE_BYTES", 1)
    monkeypatch.setattr(space, "FREE_TO_START_BYTES", 1)
    # Nothing is started, so nothing of this host's kernel is needed, nor left there.
    monkeypatch.setattr(agent_module, "detect", lambda instance: detect(instance, tmp_path / "no-hierarchy"))
    return Settings(state_dir=str(tmp_path), storage="plain")


@pytest.fixture
async def node(settings: Settings) -> AsyncIterator[Node]:
    node = Node(settings)
    await node.agent.start()
    try:
        yield node
    finally:
        await node.agent.stop()
        shutil.rmtree(settings.paths.run, ignore_errors=True)


async def test_the_life_of_a_project(node: Node) -> None:
    created = await node.ask(CREATE)
    assert (created.driver, created.opener, created.cipher) == ("plain", "none", "none")
    assert not created.is_open
    assert await node.ask(CREATE) == created

    started = await node.ask(StartCompute(spec=spec()))
    assert await node.ask(StartCompute(spec=spec())) == started
    assert await node.is_open()

    status = await node.ask(GetStatus())
    assert status.computes == [started]
    assert [volume.project_id for volume in status.volumes] == [PROJECT]
    assert (status.engines, status.cgroup) == ({18: "18.4"}, "v2")

    await node.ask(StopCompute(endpoint_id=ENDPOINT))
    await node.ask(StopCompute(endpoint_id=ENDPOINT))
    assert not await node.is_open()

    await node.ask(DeleteVolume(PROJECT))
    await node.ask(DeleteVolume(PROJECT))
    with pytest.raises(NotFoundError):
        await node.ask(GetVolume(PROJECT))


async def test_a_volume_is_open_from_its_first_compute_to_its_last(node: Node) -> None:
    await node.ask(CREATE)
    await node.ask(StartCompute(spec=spec(ENDPOINT)))
    await node.ask(StartCompute(spec=spec(SECOND)))
    with pytest.raises(ConflictError):
        await node.ask(CloseVolume(PROJECT))
    await node.ask(StopCompute(endpoint_id=ENDPOINT))
    assert await node.is_open()
    await node.ask(StopCompute(endpoint_id=SECOND, close_volume=False))
    assert await node.is_open()
    await node.ask(CloseVolume(PROJECT))
    assert not await node.is_open()


CLONE = CloneTimeline(project_id=PROJECT, source_id=TIMELINE, target_id=OTHER_TIMELINE, uid=UID)


async def test_a_volume_in_which_a_timeline_was_made_is_still_open_for_its_start(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "LINGER_S", 3600.0)
    await node.ask(CREATE)
    await node.ask(CLONE)
    assert await node.is_open()
    await node.ask(GetTimeline(project_id=PROJECT, timeline_id=OTHER_TIMELINE))
    assert await node.is_open(), "nor does what others do in between close it"
    await node.ask(StartCompute(spec=spec()))
    await node.ask(StopCompute(endpoint_id=ENDPOINT))
    assert not await node.is_open(), "a stop does not wait for it"
    await node.ask(DeleteVolume(PROJECT))


async def test_a_volume_in_which_a_timeline_was_made_is_closed_if_nobody_starts_it(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "LINGER_S", 0.0)
    await node.ask(CREATE)
    await node.ask(CLONE)
    await node.settled()
    assert not await node.is_open()


async def clone(node: Node) -> None:
    await node.ask(CLONE)


async def copy(node: Node, target_id: str = OTHER_TIMELINE) -> None:
    """Of a source that runs, as the API has it done."""
    await node.ask(StartCompute(spec=spec(SECOND)))
    common: dict[str, Any] = {"project_id": PROJECT, "source_id": TIMELINE, "target_id": target_id, "uid": UID}
    segment = wal.segment_number(CHECKPOINT)
    label = f"START WAL LOCATION: {wal.format_lsn(CHECKPOINT)} (file {wal.segment_name(1, segment)})\n"
    await node.ask(CopyTimeline(**common))
    stop_lsn = wal.format_lsn((segment + 1) * wal.SEGMENT_BYTES)
    await node.ask(FinishCopy(label=label, stop_lsn=stop_lsn, **common))


async def test_what_does_not_run_is_not_copied_as_if_it_did(node: Node) -> None:
    """Whoever holds an endpoint's server in backup mode may hold that of the timeline which its branch has meanwhile."""
    await node.ask(CREATE)
    for target_id in (None, OTHER_TIMELINE):
        with pytest.raises(UnavailableError):
            await node.ask(CopyTimeline(project_id=PROJECT, source_id=TIMELINE, target_id=target_id, uid=UID))


FIRSTS = pytest.mark.parametrize(
    ("make", "take"), [(clone, "take_first_of"), (copy, "take_first_from")], ids=["clone", "copy"]
)


@FIRSTS
async def test_it_is_started_while_its_history_begins_and_everybody_else_waits(
    node: Node, monkeypatch: pytest.MonkeyPatch, make: Callable[[Node], Awaitable[None]], take: str
) -> None:
    begins = threading.Event()
    really = getattr(Making, take)
    monkeypatch.setattr(Making, take, lambda *given: (begins.wait(), really(*given)))
    await node.ask(CREATE)
    try:
        await make(node)
        keeping = msgspec.structs.replace(spec(), timeline_id=OTHER_TIMELINE, history_retention_s=3600)
        await node.ask(StartCompute(spec=keeping))
        waiting = [
            asyncio.create_task(node.ask(command))
            for command in (
                GetTimeline(project_id=PROJECT, timeline_id=OTHER_TIMELINE),
                StopCompute(endpoint_id=ENDPOINT),
            )
        ]
        await asyncio.sleep(0.05)
        source = asyncio.create_task(node.ask(GetTimeline(project_id=PROJECT, timeline_id=TIMELINE)))
        await asyncio.sleep(0.05)
        assert not any(task.done() for task in (*waiting, source))
    finally:
        begins.set()
    looked, _stopped, _source = await asyncio.gather(*waiting, source)
    assert looked.since is not None


async def test_a_copy_whose_history_begins_later_holds_up_nobody_and_nobody_waits_longer_for_it(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(firsts, "FIRST_AFTER_S", 3600.0)
    await node.ask(CREATE)
    await copy(node)
    await copy(node, THIRD_TIMELINE)  # Its source is free.
    await node.ask(StartCompute(spec=msgspec.structs.replace(spec(), timeline_id=OTHER_TIMELINE)))
    assert len(node.agent._timelines._firsts) == 2, "neither the other copy nor the start made it begin sooner"
    looks = [
        node.ask(GetTimeline(project_id=PROJECT, timeline_id=timeline_id))
        for timeline_id in (OTHER_TIMELINE, TIMELINE, THIRD_TIMELINE, OTHER_TIMELINE)
    ]
    async with asyncio.timeout(30):
        looked = await asyncio.gather(*looks)
    assert all(info.since is not None for info in looked)


async def test_a_copy_whose_history_has_not_begun_ends_with_its_project(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(firsts, "FIRST_AFTER_S", 3600.0)
    await node.ask(CREATE)
    await copy(node)
    async with asyncio.timeout(30):
        await node.ask(DeleteVolume(PROJECT))
    assert not node.agent._timelines._firsts


@FIRSTS
async def test_one_whose_history_cannot_begin_is_there_all_the_same(
    node: Node,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    make: Callable[[Node], Awaitable[None]],
    take: str,
) -> None:
    def fail(*_given: Any) -> None:
        raise ExhaustedError("no space left")

    await node.ask(CREATE)
    with monkeypatch.context() as patched:
        patched.setattr(Making, take, fail)
        await make(node)
        look = GetTimeline(project_id=PROJECT, timeline_id=OTHER_TIMELINE)
        assert (await node.ask(look)).since is None
    assert "no space left" in caplog.text
    keeping = msgspec.structs.replace(spec(), timeline_id=OTHER_TIMELINE, history_retention_s=3600)
    await node.ask(StartCompute(spec=keeping))
    settle(node, OTHER_TIMELINE)
    await node.ask(StopCompute(endpoint_id=ENDPOINT))
    assert (await node.ask(look)).since is not None, "a stop makes up for it"


@FIRSTS
async def test_a_history_that_a_killed_agent_did_not_begin_is_begun_by_the_next(
    node: Node, settings: Settings, monkeypatch: pytest.MonkeyPatch, make: Callable[[Node], Awaitable[None]], take: str
) -> None:
    def die(*_given: Any) -> None:
        raise ExhaustedError("killed")

    await node.ask(CREATE)
    with monkeypatch.context() as patched:
        patched.setattr(Making, take, die)
        patched.setattr(firsts, "FIRST_AFTER_S", 0.0)
        await make(node)
        with contextlib.suppress(ExhaustedError):
            await node.settled()
        await node.agent.stop()
    another = Node(settings)
    await another.agent.start()
    try:
        looked = await another.ask(GetTimeline(project_id=PROJECT, timeline_id=OTHER_TIMELINE))
    finally:
        await another.agent.stop()
    assert looked.since is not None


async def test_the_history_of_a_clone_does_not_begin_with_what_its_source_is_just_becoming(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The start of the source opens the volume, and so begins what a crash kept from being done."""

    def die(*_given: Any) -> None:
        raise ExhaustedError("killed")

    monkeypatch.setattr(opening, "LINGER_S", 0.0)
    await node.ask(CREATE)
    monkeypatch.setattr(Making, "take_first_of", die)
    await clone(node)
    with contextlib.suppress(ExhaustedError):
        await node.settled()
    await node.settled()
    assert not await node.is_open()
    await node.ask(StartCompute(spec=spec()))
    looked = await node.ask(GetTimeline(project_id=PROJECT, timeline_id=OTHER_TIMELINE))
    assert looked.since is not None, "but with itself, which nobody has started"


async def test_the_history_of_a_clone_that_runs_as_its_source_does_begins_later(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of neither is it known any more what it was."""

    def die(*_given: Any) -> None:
        raise ExhaustedError("killed")

    await node.ask(CREATE)
    with monkeypatch.context() as patched:
        patched.setattr(Making, "take_first_of", die)
        await clone(node)
        with contextlib.suppress(ExhaustedError):
            await node.settled()
    for of in (spec(), msgspec.structs.replace(spec(SECOND), timeline_id=OTHER_TIMELINE)):
        await node.ask(StartCompute(spec=of))
    await node.agent._timelines._take_owed(PROJECT, OTHER_TIMELINE)
    assert (await node.ask(GetTimeline(project_id=PROJECT, timeline_id=OTHER_TIMELINE))).since is None


def settle(node: Node, timeline_id: str) -> None:
    """What a server's own end would leave: no label of the backup that it was started from."""
    data = node.settings.paths.volumes / PROJECT / "timelines" / timeline_id / "data"
    (data / BACKUP_LABEL).unlink(missing_ok=True)


async def test_nothing_is_left_open_for_what_failed_or_is_never_started(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "LINGER_S", 3600.0)
    await node.ask(CREATE)
    await node.ask(msgspec.structs.replace(CLONE, is_frozen=True))
    assert not await node.is_open()
    with pytest.raises(NotFoundError):
        await node.ask(msgspec.structs.replace(CLONE, source_id=new_timeline_id(), target_id=new_timeline_id()))
    assert not await node.is_open()


async def test_a_compute_that_runs_on_what_its_branch_was_is_stopped_there(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not where it was asked for since: what follows a stop is for the timeline that was written to."""
    stopped: list[str] = []

    async def after_stop(_mountpoint: Path, timeline_id: str, _retention_s: int | None) -> None:
        stopped.append(timeline_id)

    await node.ask(CREATE)
    await node.ask(StartCompute(spec=spec()))
    moved = msgspec.structs.replace(spec(), timeline_id=OTHER_TIMELINE)
    monkeypatch.setattr(node.agent._timelines, "after_stop", after_stop)
    assert (await node.ask(StartCompute(spec=moved))).timeline_id == TIMELINE
    await node.ask(StopCompute(endpoint_id=ENDPOINT))
    assert stopped == [TIMELINE]


async def test_one_that_was_being_started_when_it_was_asked_for_elsewhere_is_stopped_where_it_runs(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped: list[str] = []

    async def after_stop(_mountpoint: Path, timeline_id: str, _retention_s: int | None) -> None:
        stopped.append(timeline_id)

    await node.ask(CREATE)
    await clone(node)
    await node.settled()
    monkeypatch.setattr(node.agent._timelines, "after_stop", after_stop)
    moved = msgspec.structs.replace(spec(), timeline_id=OTHER_TIMELINE)
    begun, go_on = asyncio.Event(), asyncio.Event()
    start = node.computes.start

    async def slowly(spec: ComputeSpec, mountpoint: Path, *, floor: Floor | None = None) -> ComputeInfo:
        begun.set()
        await go_on.wait()
        return await start(spec, mountpoint, floor=floor)

    monkeypatch.setattr(node.computes, "start", slowly)
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(node.ask(StartCompute(spec=spec())))
        await begun.wait()
        second = tasks.create_task(node.ask(StartCompute(spec=moved)))
        await asyncio.sleep(0)
        go_on.set()
    assert [task.result().timeline_id for task in (first, second)] == [TIMELINE, TIMELINE]
    await node.ask(StopCompute(endpoint_id=ENDPOINT))
    assert stopped == [TIMELINE]


async def test_a_stop_that_waited_follows_the_compute_to_where_it_was_started_meanwhile(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped: list[str] = []

    async def after_stop(_mountpoint: Path, timeline_id: str, _retention_s: int | None) -> None:
        stopped.append(timeline_id)

    await node.ask(CREATE)
    await clone(node)
    await node.settled()
    await node.ask(StartCompute(spec=spec()))
    monkeypatch.setattr(node.agent._timelines, "after_stop", after_stop)
    moved = msgspec.structs.replace(spec(), timeline_id=OTHER_TIMELINE)
    async with asyncio.TaskGroup() as tasks, node.agent._timelines.lock(TimelineId(TIMELINE)):
        tasks.create_task(node.ask(StopCompute(endpoint_id=ENDPOINT)))
        await asyncio.sleep(0)
        node.computes.end(ENDPOINT, was_asked=True)
        await node.ask(StartCompute(spec=moved))
    assert (stopped, node.computes.running()) == ([OTHER_TIMELINE], [])


async def test_a_compute_that_ends_by_itself_closes_its_volume(node: Node) -> None:
    await node.ask(CREATE)
    await node.ask(StartCompute(spec=spec()))
    node.computes.end(ENDPOINT, was_asked=False)
    await node.settled()
    assert not await node.is_open()


async def test_a_compute_that_does_not_start_leaves_the_volume_closed(node: Node) -> None:
    await node.ask(CREATE)
    node.computes.refusal = InternalError("no such engine")
    with pytest.raises(InternalError):
        await node.ask(StartCompute(spec=spec()))
    assert not await node.is_open()


async def test_deleting_stops_what_runs(node: Node) -> None:
    await node.ask(CREATE)
    await node.ask(StartCompute(spec=spec()))
    await node.ask(DeleteVolume(PROJECT))
    assert node.computes.running() == []
    assert list(node.settings.paths.volumes.iterdir()) == []


@pytest.mark.parametrize("interval", ["COLLECT_INTERVAL_S", "FEED_INTERVAL_S"])
async def test_a_project_that_is_deleted_during_a_round_ends_no_other_ones_rounds(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, interval: str
) -> None:
    monkeypatch.setattr(agent_module, interval, 0.0)
    node = Node(settings)
    node.computes.left_over = [
        msgspec.structs.replace(running(ENDPOINT), follows_id=OTHER_TIMELINE),
        msgspec.structs.replace(running(SECOND, OTHER, OTHER_TIMELINE), follows_id=TIMELINE),
    ]
    asked: asyncio.Queue[str] = asyncio.Queue()

    async def work(project_id: str, *_more: Any) -> None:
        if project_id == PROJECT:
            await node.ask(DeleteVolume(OTHER))
        await asked.put(project_id)

    async def do_nothing(*_arguments: Any) -> None: ...

    monkeypatch.setattr(node.agent._timelines, "collect", work if interval == "COLLECT_INTERVAL_S" else do_nothing)
    monkeypatch.setattr(node.agent._timelines, "feed", work if interval == "FEED_INTERVAL_S" else do_nothing)
    monkeypatch.setattr(node.agent, "_kill_all_on", do_nothing)  # plain volumes of both would do as well
    await node.agent.start()
    try:
        async with asyncio.timeout(5):
            assert [await asked.get() for _ in range(3)] == [PROJECT] * 3
    finally:
        await node.agent.stop()


async def test_a_failed_volume_takes_its_computes_with_it(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[AnyEvent] = []
    monkeypatch.setattr(node.agent, "_send", events.append)
    await node.ask(CREATE)
    await node.ask(StartCompute(spec=spec()))
    node.agent._on_volume_failed(PROJECT, "the volume daemon ended")
    await node.settled()
    assert node.computes.running() == []
    assert [type(event).__name__ for event in events] == ["ComputeExited", "VolumeFailed"]
    assert not await node.is_open()
    await node.ask(StartCompute(spec=spec()))
    assert await node.is_open()


async def test_computes_found_without_their_volume_are_ended(settings: Settings) -> None:
    node = Node(settings)
    node.computes.left_over = [running(ENDPOINT, OTHER)]
    await node.agent.start()
    try:
        assert node.computes.killed == [OTHER]
        assert node.computes.running() == []
    finally:
        await node.agent.stop()


async def test_a_compute_and_its_volume_are_adopted(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Node(settings)
    await first.agent.start()
    await first.ask(CREATE)
    await first.ask(StartCompute(spec=spec()))
    opened = first.agent._volumes._opened[PROJECT]
    await first.agent.stop()

    monkeypatch.setattr(PlainDriver, "leftovers", lambda _self: {PROJECT, OTHER})
    monkeypatch.setattr(PlainDriver, "adopt", lambda _self, project_id: opened if project_id == PROJECT else None)
    node = Node(settings)
    node.computes.left_over = first.computes.running()
    await node.agent.start()
    try:
        assert node.computes.killed == [OTHER]
        assert [info.endpoint_id for info in node.computes.running()] == [ENDPOINT]
        # For how long its history is kept the new agent does not know, until it is told.
        kept: list[int | None] = []

        async def after_stop(_mountpoint: Path, _timeline_id: str, retention_s: int | None) -> None:
            kept.append(retention_s)

        monkeypatch.setattr(node.agent._timelines, "after_stop", after_stop)
        assert (await node.ask(GetStatus())).history_retentions_s == {}
        await node.ask(KeepHistory(endpoint_id=ENDPOINT, history_retention_s=60))
        assert (await node.ask(GetStatus())).history_retentions_s == {ENDPOINT: 60}
        with pytest.raises(BadRequestError):
            await node.ask(KeepHistory(endpoint_id=ENDPOINT, history_retention_s=-1))
        await node.ask(StopCompute(endpoint_id=ENDPOINT))
        assert kept == [60]
        assert not await node.is_open()
    finally:
        await node.agent.stop()


async def test_an_open_volume_that_nobody_uses_is_closed_at_the_start(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Node(settings)
    await first.agent.start()
    await first.ask(CREATE)
    await first.ask(StartCompute(spec=spec()))
    opened = first.agent._volumes._opened[PROJECT]
    await first.agent.stop()
    monkeypatch.setattr(PlainDriver, "leftovers", lambda _self: {PROJECT})
    monkeypatch.setattr(PlainDriver, "adopt", lambda _self, _project_id: opened)
    node = Node(settings)
    await node.agent.start()
    try:
        assert not await node.is_open()
    finally:
        await node.agent.stop()


async def test_everything_is_stopped_at_the_end_of_the_platform(node: Node) -> None:
    await node.ask(CREATE)
    await node.ask(StartCompute(spec=spec()))
    await node.agent.stop_everything()
    assert node.computes.running() == []
    assert not await node.is_open()


@pytest.mark.parametrize("caller", [Service.AGENT, Service.GATEWAY, Service.KEYS])
@pytest.mark.parametrize(
    "command",
    [
        CREATE,
        DeleteVolume(PROJECT),
        CloseVolume(PROJECT),
        StartCompute(spec=spec()),
        StopCompute(endpoint_id=ENDPOINT),
    ],
    ids=lambda command: type(command).__name__,
)
async def test_only_the_api_may_change_anything(node: Node, caller: Service, command: Command[Any]) -> None:
    with pytest.raises(ForbiddenError):
        await node.ask(command, caller)


async def test_a_schema_is_that_of_a_compute_that_runs(node: Node) -> None:
    await node.ask(CREATE)
    command = DumpSchema(endpoint_id=ENDPOINT, pg_version=18, database='na\'me = "x"')
    with pytest.raises(NotFoundError):
        await node.ask(command)
    await node.ask(StartCompute(spec=spec()))
    assert (await node.ask(command)).text == f'{ENDPOINT} 18 sql na\'me = "x"'.encode()
    tables = msgspec.structs.replace(command, form="tables")
    assert (await node.ask(tables)).text == f'{ENDPOINT} 18 tables na\'me = "x"'.encode()
    for wrong in ("", "d" * 64, "a\0b"):
        with pytest.raises(BadRequestError):
            await node.ask(DumpSchema(endpoint_id=ENDPOINT, pg_version=18, database=wrong))
    with pytest.raises(ForbiddenError):
        await node.ask(command, caller=Service.AGENT)


async def test_root_may_look(node: Node) -> None:
    await node.ask(CREATE)
    assert (await node.ask(GetStatus(), Service.AGENT)).driver == "plain"
    assert (await node.ask(GetVolume(PROJECT), Service.AGENT)).project_id == PROJECT


BAD_NAMES = [
    "",
    ".",
    "..",
    "../../etc",
    "/etc/passwd",
    "a/b",
    "calm-forest-1234567",
    "calm-forest-12345678\0",
    "x" * 5000,
]


@pytest.mark.parametrize("name", BAD_NAMES)
async def test_no_other_name_becomes_a_path(node: Node, name: str) -> None:
    commands: list[Command[Any]] = [
        msgspec.structs.replace(CREATE, project_id=name),
        msgspec.structs.replace(CREATE, timeline_id=name),
        DeleteVolume(name),
        CloseVolume(name),
        GetVolume(name),
        StartCompute(spec=msgspec.structs.replace(spec(), project_id=name)),
        StartCompute(spec=msgspec.structs.replace(spec(), timeline_id=name)),
        StartCompute(spec=msgspec.structs.replace(spec(), endpoint_id=name)),
        StopCompute(endpoint_id=name),
    ]
    for command in commands:
        with pytest.raises(BadRequestError):
            await node.ask(command)
    assert list(node.settings.paths.volumes.iterdir()) == []


@pytest.mark.parametrize("uid", [-1, 0, 1000, COMPUTE_UID_FIRST - 1, 2**32])
async def test_no_other_uid_is_given_a_cluster_or_run(node: Node, uid: int) -> None:
    for command in (
        msgspec.structs.replace(CREATE, uid=uid),
        StartCompute(spec=msgspec.structs.replace(spec(), uid=uid)),
    ):
        with pytest.raises(BadRequestError):
            await node.ask(command)


@pytest.mark.parametrize("size", [-1, 0, 1024, 2**63 - 1])
async def test_no_absurd_size_is_made(node: Node, size: int) -> None:
    with pytest.raises(BadRequestError):
        await node.ask(msgspec.structs.replace(CREATE, size_bytes=size))


async def test_a_version_that_is_not_offered_is_refused(node: Node) -> None:
    with pytest.raises(UnprocessableError):
        await node.ask(msgspec.structs.replace(CREATE, pg_version=15))


async def test_a_host_disk_that_is_almost_full_takes_nothing_new(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space, "FREE_TO_CREATE_BYTES", 2**62)
    with pytest.raises(ExhaustedError):
        await node.ask(CREATE)
    monkeypatch.setattr(space, "FREE_TO_CREATE_BYTES", 1)
    await node.ask(CREATE)
    monkeypatch.setattr(space, "FREE_TO_CREATE_BYTES", 2**62)
    await node.ask(CREATE)  # twice is once, and needs no room
    monkeypatch.setattr(space, "FREE_TO_START_BYTES", 2**62)
    with pytest.raises(ExhaustedError):
        await node.ask(StartCompute(spec=spec()))
    assert not await node.is_open()


async def test_who_writes_to_an_almost_full_disk_is_stopped_and_who_reads_is_not(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    await node.ask(CREATE)
    await node.ask(StartCompute(spec=spec()))
    assert await node.agent._relieve_host({PROJECT: 0}) == {}  # there is room
    assert await node.is_open()

    monkeypatch.setattr(space, "FREE_TO_START_BYTES", 2**62)
    sizes = await node.agent._relieve_host({})
    assert list(sizes) == [PROJECT]
    monkeypatch.setattr(space, "FREE_TO_WRITE_BYTES", 2**62)
    await node.agent._relieve_host(sizes)
    assert await node.is_open()
    await node.agent._relieve_host({PROJECT: sizes[PROJECT] - 4096})
    assert not await node.is_open()
    assert node.computes.running() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="the agent knows root as itself")
async def test_the_socket_answers_root_and_pushes_events(node: Node) -> None:
    received: asyncio.Queue[AnyEvent] = asyncio.Queue()
    client = Client(node.settings.paths.agent_socket, events=AnyEvent, on_event=received.put_nowait)
    try:
        status = await client.call(GetStatus())
        assert status.driver == "plain"
        with pytest.raises(ForbiddenError):
            await client.call(DeleteVolume(PROJECT))
        event = ComputeExited(endpoint_id=ENDPOINT, generation=3, was_asked=False, exit_status=-9)
        node.computes.on_exit(event)
        assert await asyncio.wait_for(received.get(), 5) == event
    finally:
        await client.close()


async def test_commands_of_one_project_wait_for_each_other(node: Node) -> None:
    """A start that arrives during a stop finds the volume closed or open, never in between."""
    await node.ask(CREATE)
    asked: list[Awaitable[Any]] = []
    for _ in range(10):
        asked += [node.ask(StartCompute(spec=spec())), node.ask(StopCompute(endpoint_id=ENDPOINT))]
    await asyncio.gather(*asked)
    assert not await node.is_open()
    assert node.computes.running() == []


# ── backups: what they send is tested in tests/node/backups ──

BACK_UP = BackUpTimeline(project_id=PROJECT, timeline_id=TIMELINE, pg_version=18, retain_days=30)
SEND_WAL = SendWal(project_id=PROJECT, timeline_id=TIMELINE, retain_days=30)


class Stuck(Bucket):
    """A store that answers when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.free, self.stuck = asyncio.Event(), asyncio.Event()
        self.free.set()

    def stick(self) -> None:
        self.free.clear()
        self.stuck.set()

    def loosen(self) -> None:
        self.free.set()
        self.stuck.clear()

    async def call(self, command: Any, *, timeout_s: float = 0) -> Any:
        await self.free.wait()
        return await super().call(command, timeout_s=timeout_s)


@pytest.fixture
def bucket() -> Stuck:
    return Stuck()


@pytest.fixture
def backup_keys() -> BackupKeys:
    return BackupKeys()


@pytest.fixture
async def backed_up(settings: Settings, bucket: Stuck, backup_keys: BackupKeys) -> AsyncIterator[Node]:
    """A node with a project at rest, and a store."""
    settings.paths.backups.mkdir()
    settings.paths.secrets.mkdir(exist_ok=True)
    settings.paths.control_key.write_bytes(b"c" * 32)
    node = Node(settings, Outside(bucket, backup_keys))
    await node.agent.start()
    await node.ask(CREATE)
    try:
        yield node
    finally:
        bucket.loosen()
        await node.agent.stop()
        shutil.rmtree(settings.paths.run, ignore_errors=True)


@pytest.mark.parametrize(
    "command",
    [
        BACK_UP,
        SEND_WAL,
        ReadBack(project_id=PROJECT, timeline_id=TIMELINE, sample=1),
        RestoreTimeline(project_id=PROJECT, source_id=TIMELINE, timeline_id=OTHER_TIMELINE, uid=UID, pg_version=18),
    ],
)
async def test_without_a_store_there_are_no_backups(node: Node, command: Command[Any]) -> None:
    await node.ask(CREATE)
    with pytest.raises(PreconditionError, match="no store"):
        await node.ask(command)


async def test_that_there_is_no_store_is_known_without_a_courier(backed_up: Node, settings: Settings) -> None:
    """It is not started where there is none, and who asks every minute would wait for it, and not know."""
    with pytest.raises(PreconditionError, match="no store"):
        await backed_up.ask(GetStore())
    settings.paths.store_file.parent.mkdir(exist_ok=True)
    settings.paths.store_file.touch()
    assert (await backed_up.ask(GetStore())).name


async def test_a_volume_is_open_while_it_is_backed_up_and_closed_afterwards(backed_up: Node, bucket: Stuck) -> None:
    opened: list[bool] = []
    bucket.before_put = lambda key: opened.append(backed_up.agent._volumes.is_open(PROJECT)) if PROJECT in key else None
    await backed_up.ask(BACK_UP)
    assert opened
    assert all(opened)
    assert not await backed_up.is_open()


async def test_a_volume_that_is_deleted_or_closed_for_good_waits_for_no_store(
    backed_up: Node, bucket: Stuck, settings: Settings
) -> None:
    await backed_up.ask(BACK_UP)
    assert list(settings.paths.backups.iterdir())
    bucket.before_put = lambda _key: bucket.stick()
    for command in (CloseVolume(PROJECT, ends_sending=True), DeleteVolume(PROJECT)):
        (settings.paths.backups / f"{PROJECT}.chunks").unlink()
        sending = asyncio.create_task(backed_up.ask(BACK_UP))
        await bucket.stuck.wait()
        with pytest.raises(ConflictError):
            await backed_up.ask(CloseVolume(PROJECT))
        await backed_up.ask(command)
        with pytest.raises(UnavailableError):
            await sending
        bucket.loosen()
    assert not list(settings.paths.backups.iterdir())


async def test_a_compute_stops_while_a_store_does_not_answer(backed_up: Node, bucket: Stuck) -> None:
    await backed_up.ask(BACK_UP)
    await backed_up.ask(StartCompute(spec=spec()))
    bucket.before_put = lambda _key: bucket.stick()
    sending = asyncio.create_task(backed_up.ask(SEND_WAL))
    await bucket.stuck.wait()
    async with asyncio.timeout(10):
        await backed_up.ask(StopCompute(endpoint_id=ENDPOINT))
    bucket.loosen()
    await sending
    await backed_up.settled()
    assert not await backed_up.is_open()


async def test_the_backup_key_goes_with_the_last_compute(backed_up: Node, backup_keys: BackupKeys) -> None:
    await backed_up.ask(BACK_UP)
    backup_keys.reasons.clear()
    for uses in (1, 2):
        await backed_up.ask(StartCompute(spec=spec()))
        await backed_up.ask(SEND_WAL)
        await backed_up.ask(SEND_WAL)
        assert len(backup_keys.reasons) == uses
        await backed_up.ask(StopCompute(endpoint_id=ENDPOINT))
        assert not backed_up.agent._backups._kept._kept  # type: ignore[union-attr]


async def test_a_volume_can_be_made_empty_for_what_comes_back(node: Node) -> None:
    await node.ask(msgspec.structs.replace(CREATE, timeline_id=None))
    with pytest.raises(NotFoundError):
        await node.ask(GetTimeline(project_id=PROJECT, timeline_id=TIMELINE))
