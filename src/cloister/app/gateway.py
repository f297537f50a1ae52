"""A gateway worker's process: the shared listening sockets of both ports, the certificate, and a line to the directory."""

import uvloop

from cloister.app.process import Process
from cloister.edge.gateway.worker import GatewayWorker, ServeOptions
from cloister.edge.sql import HttpsFront

loop_factory = uvloop.new_event_loop


async def run(process: Process) -> None:
    worker = GatewayWorker(
        process.settings,
        process.sockets["postgres"],
        ServeOptions(worker=process.worker),
        front=HttpsFront(process.settings),
        front_listening=process.sockets["https"],
    )
    await worker.run(process.stop, process.ready)
