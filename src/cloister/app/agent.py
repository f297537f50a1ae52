"""The node agent's process: root, one socket, disks and computes."""

from cloister.app.process import Process
from cloister.node.agent import NodeAgent
from cloister.trust.keys.client import KeyClient


async def run(process: Process) -> None:
    settings = process.settings
    agent = NodeAgent(settings, broker=KeyClient(settings.paths.broker_socket))
    await agent.start()
    await agent.make_ready()
    process.ready()
    await process.stop.wait()
    if process.stop_everything.is_set():
        await agent.stop_everything()
    await agent.stop()
