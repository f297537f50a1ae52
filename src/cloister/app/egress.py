"""The relay's process: the doors of all projects, and the only way from a compute to a network."""

from cloister.app.process import Process
from cloister.node.egress.relay import Relay


async def run(process: Process) -> None:
    relay = Relay(process.settings)
    await relay.start()
    process.ready()
    await process.stop.wait()
    await relay.stop()
