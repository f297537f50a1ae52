"""The way to a compute for clients of its `-pooler` host: through the PgBouncer beside it.

They have proved who they are like all others, and PgBouncer takes the gateway's word for it. The first of a role at a compute
looks at the compute itself: that wakes it, and what is wrong (no such database, no right to connect) is said by PostgreSQL in
its own words. Then the control plane is asked for the pooler; where it is, is remembered.

A pooler that was killed does not listen, and one that was started since may not have heard of a role: either way it is asked
for again.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from cloister.base.directory import Compute, Route
from cloister.base.errors import NotFoundError
from cloister.edge.gateway.compute import ComputeGoneError, ComputeSession, log_in_patiently, reach
from cloister.edge.gateway.directory import Directory
from cloister.edge.gateway.errors import compute_unavailable
from cloister.edge.gateway.limits import CONNECT_PAUSE_MAX_S, REFUSING_COMPUTE_S
from cloister.protocol.pgwire.backend import BackendError
from cloister.protocol.pgwire.messages import TERMINATE

_TOO_MANY_CONNECTIONS: Final = "53300"

_LISTENS_WITHIN_S: Final = 0.5
# A pooler that was just started listens after some 15 ms.

_UNKNOWN_ROLE: Final = '"trust" authentication failed'
# What PgBouncer says of a role that is not in its list.


async def reach_pooled(directory: Directory, route: Route, role: str, parameters: Mapping[str, str]) -> ComputeSession:
    """A session with the pooler, which is ready. The caller limits the time. Raises what `compute.reach` raises."""
    if (known := directory.known_pool(route, role)) is not None:
        try:
            return await log_in_patiently(
                _pooler(route.endpoint_id, known, route.generation), parameters, refusing_s=0.0
            )
        except ComputeGoneError:
            directory.forget_pool(route, role)
        except BackendError as error:
            if not _is_unknown_role(error):
                raise
            directory.forget_pool(route, role)
    generation, was_cold = await _look(directory, route, parameters)
    session = await _ask_and_log_in(directory, route.endpoint_id, generation, role, parameters)
    return replace(session, was_cold=was_cold)


async def _look(directory: Directory, route: Route, parameters: Mapping[str, str]) -> tuple[int, bool]:
    """The generation of the compute that runs, and whether it slept."""
    try:
        session = await reach(directory, route, parameters)
    except BackendError as error:
        # Direct connections have taken what the pool left them: the pool may have room.
        if error.sqlstate != _TOO_MANY_CONNECTIONS or route.socket_dir is None:
            raise
        return route.generation, False
    session.transport.write(TERMINATE)
    session.transport.close()
    return session.generation, session.was_cold


async def _ask_and_log_in(
    directory: Directory, endpoint_id: str, generation: int, role: str, parameters: Mapping[str, str]
) -> ComputeSession:
    """To one that was just started, or told of a role. It is asked for anew while it does not listen: the one there was may
    have been dying."""
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + REFUSING_COMPUTE_S
    pause_s = CONNECT_PAUSE_MAX_S / 16
    while True:
        try:
            socket_dir = await directory.pool(endpoint_id, generation, role)
            return await log_in_patiently(
                _pooler(endpoint_id, socket_dir, generation), parameters, refusing_s=_LISTENS_WITHIN_S
            )
        except NotFoundError as error:
            raise compute_unavailable("the compute ended meanwhile") from error
        except ComputeGoneError as error:
            if loop.time() >= give_up_at:
                raise compute_unavailable("its pooler does not listen") from error
        except BackendError as error:
            if not _is_unknown_role(error) or loop.time() >= give_up_at:
                raise
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, CONNECT_PAUSE_MAX_S)


def _pooler(endpoint_id: str, socket_dir: str, generation: int) -> Compute:
    return Compute(endpoint_id=endpoint_id, socket_dir=socket_dir, generation=generation, was_cold=False)


def _is_unknown_role(error: BackendError) -> bool:
    return _UNKNOWN_ROLE in str(error)
