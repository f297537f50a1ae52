"""The courier's process: the only one that reaches the operator's bucket."""

from cloister.app.process import Process
from cloister.node.backups.courier import Courier


async def run(process: Process) -> None:
    courier = Courier(process.settings)
    await courier.start()
    process.ready()
    await process.stop.wait()
    await courier.stop()
