"""The node agent, as the control plane asks it. `base.rpc.Client` on `Paths.agent_socket` is one."""

from typing import Protocol, TypeVar

from cloister.base.limits import RPC_CALL_TIMEOUT_S
from cloister.base.rpc import Command

R = TypeVar("R")


class Agent(Protocol):
    async def call(self, command: Command[R], *, timeout_s: float = RPC_CALL_TIMEOUT_S) -> R:
        """Raises what the agent refused with, or UnavailableError: then nobody knows whether it was done."""
        ...
