"""The node agent's process: root, one socket, disks and computes."""

from cloister.app.process import Process
from cloister.base.rpc import Client
from cloister.node.agent import NodeAgent
from cloister.node.backups.keeper import Outside
from cloister.trust.keys.client import KeyClient


async def run(process: Process) -> None:
    settings = process.settings
    broker, courier = KeyClient(settings.paths.broker_socket), Client(settings.paths.courier_socket)
    agent = NodeAgent(settings, broker=broker, backups=Outside(courier, broker))
    await agent.start()
    await agent.make_ready()
    process.ready()
    await process.stop.wait()
    if process.stop_everything.is_set():
        await agent.stop_everything()
    await agent.stop()
    await courier.close()
