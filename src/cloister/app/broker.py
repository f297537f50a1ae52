"""The key broker's process: the root key, its own role in the control database, one socket."""

from cloister.app.process import Process
from cloister.base.database import Database
from cloister.trust.keys.broker import KeyBroker
from cloister.trust.keys.memory import harden_process
from cloister.trust.keys.notary import Notary
from cloister.trust.keys.providers import open_provider


async def run(process: Process) -> None:
    paths = process.settings.paths
    harden_process()
    provider = open_provider(paths.root_key)
    database = Database(socket_dir=paths.control_socket_dir, role="cloister_keys", url=process.settings.database_url)
    await database.open()
    broker = KeyBroker(database, provider, paths.broker_socket, Notary(provider, paths.notary))
    await broker.start()
    process.ready()
    await process.stop.wait()
    await broker.stop()
    await database.close()
