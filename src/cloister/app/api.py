"""The API's process: HTTPS, the control plane's services, operations, reconcilers, and the gateways' directory."""

import asyncio

from cloister import __version__
from cloister.app import last_sending
from cloister.app.guards import BrokersKeys, StoredAudit
from cloister.app.process import Process
from cloister.base.clock import SystemClock
from cloister.base.database import Database
from cloister.base.errors import CloisterError
from cloister.base.rpc import Client
from cloister.base.secret import Secret
from cloister.control.platform import ControlPlane
from cloister.edge.api.application import create_app
from cloister.edge.api.call import Services
from cloister.edge.api.idempotency import Answers
from cloister.edge.api.server import serve
from cloister.edge.api.tls import ServerCertificate
from cloister.node.commands import GetStatus
from cloister.trust.access.decisions import Decider
from cloister.trust.access.keys import ApiKeys
from cloister.trust.audit.checkpoints import Checkpoints
from cloister.trust.audit.pruning import Pruner
from cloister.trust.keys.client import KeyClient
from cloister.trust.sentinel.desk import Desk


async def run(process: Process) -> None:
    settings = process.settings
    paths = settings.paths
    clock = SystemClock()
    control_key = Secret(paths.control_key.read_bytes())
    keys = KeyClient(paths.broker_socket)
    database = Database(socket_dir=paths.control_socket_dir, role="cloister_api", url=settings.database_url)
    await database.open()
    plane = ControlPlane(
        settings,
        database,
        keys=keys,
        mock_key=Secret(paths.mock_key.read_bytes()),
        control_key=control_key,
        clock=clock,
    )
    agent = Client(paths.agent_socket, connect_patience_s=1)

    async def is_ready() -> bool:
        try:
            await agent.call(GetStatus(), timeout_s=5)
        except (CloisterError, OSError):
            return False
        return True

    app = create_app(
        Services(
            control=plane.control,
            api_keys=ApiKeys(database, clock),
            decider=Decider(own=paths.policies),
            audit=StoredAudit(database, keys),
            volume_keys=BrokersKeys(keys),
            findings=Desk(database),
            answers=Answers(database, control_key),
            settings=settings,
            clock=clock,
            version=__version__,
            is_ready=is_ready,
        ),
    )
    certificate = ServerCertificate(paths.certificates / "chain.pem", paths.certificates / "key.pem")
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(
                plane.run(
                    process.stop, process.stop_everything, lambda owed: last_sending.write(paths.last_sending, owed)
                )
            )
            tasks.create_task(serve(app, [], certificate, process.stop, handed_over=paths.https_socket))
            checkpoints = tasks.create_task(Checkpoints(database, keys).run())
            pruner = tasks.create_task(Pruner(database, keys).run())
            process.ready()
            await process.stop.wait()
            checkpoints.cancel()
            pruner.cancel()
    finally:
        await agent.close()
        await database.close()
