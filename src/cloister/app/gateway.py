"""A gateway worker's process: the shared listening sockets, the certificate, and a line to the directory."""

import uvloop

from cloister.app.process import Process
from cloister.edge.gateway.worker import GatewayWorker, ServeOptions

loop_factory = uvloop.new_event_loop


async def run(process: Process) -> None:
    worker = GatewayWorker(process.settings, process.sockets, ServeOptions(worker=process.worker))
    await worker.run(process.stop, process.ready)
