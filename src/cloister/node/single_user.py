"""`postgres --single` on a timeline, as the project's uid, with nothing but the timeline's data and limits of its own."""

from cloister.node.postgres.engines import Engine
from cloister.node.runs import Ran, Run, Runs
from cloister.node.timelines import recovery
from cloister.node.timelines.layout import Timeline


class SingleUserRuns:
    """Implements `timelines.single.SingleUser`."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs

    def sweep(self) -> None:
        self._runs.sweep()

    async def run(
        self, engine: Engine, timeline: Timeline, uid: int, *, database: str, settings: dict[str, str], stdin: bytes
    ) -> Ran:
        return await self._runs.run(
            Run(
                engine=engine,
                data=timeline.data,
                uid=uid,
                program=recovery.single_user(engine, database, settings),
                stdin=stdin,
                memory_bytes=recovery.MEMORY_BYTES,
                cpu_cores=recovery.CPU_CORES,
                patience_s=recovery.PATIENCE_S,
                output=timeline.recovery_log,
            )
        )
