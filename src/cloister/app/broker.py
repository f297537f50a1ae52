"""The key broker's process: the root key, its own role in the control database, one socket, and what is due by the clock."""

import asyncio
import contextlib
import functools
import logging
from typing import Final

from cloister.app.process import Process
from cloister.base.clock import SystemClock
from cloister.base.database import Database
from cloister.base.errors import CloisterError
from cloister.trust.keys import store
from cloister.trust.keys.broker import KeyBroker
from cloister.trust.keys.keeper import Keeper
from cloister.trust.keys.keystore import Keystore
from cloister.trust.keys.memory import harden_process
from cloister.trust.keys.notary import Notary
from cloister.trust.keys.providers import configuration

log = logging.getLogger(__name__)

RECONCILE_INTERVAL_S: Final = 60.0
# Policies speak of days.


async def run(process: Process) -> None:
    paths = process.settings.paths
    harden_process()
    open_roots = functools.partial(configuration.open_roots, paths.key_providers, paths.root_key)
    roots = open_roots()
    database = Database(socket_dir=paths.control_socket_dir, role="cloister_keys", url=process.settings.database_url)
    await database.open()
    async with database.reading() as tx:
        keystore = Keystore(paths.keystore, paths.epochs, may_begin=not await store.has_project_keys(tx))
    keeper = Keeper(database, roots, keystore, SystemClock(), open_roots=open_roots)
    broker = KeyBroker(database, keeper, paths.broker_socket, Notary(roots, paths.notary))
    await broker.start()
    async with asyncio.TaskGroup() as tasks:
        reconciling = tasks.create_task(_reconcile(keeper))
        process.ready()
        await process.stop.wait()
        reconciling.cancel()
    await broker.stop()
    await database.close()


async def _reconcile(keeper: Keeper) -> None:
    while True:
        keeper.due.clear()
        try:
            await keeper.reconcile()
        except CloisterError as error:  # the database or a key service is away: the next pass goes on
            log.warning("keys could not be looked after: %s", error)
        except Exception:
            log.exception("keys could not be looked after")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RECONCILE_INTERVAL_S):
                await keeper.due.wait()
