"""Which PostgreSQL versions the node offers. Asked once: engines come and go with a restart of the platform."""

from cloister.base.errors import BadRequestError, UnavailableError
from cloister.control.computes.agent import Agent
from cloister.node.commands import GetStatus


class Engines:
    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._versions: frozenset[int] = frozenset()

    async def default(self) -> int:
        """The newest. Raises UnavailableError."""
        return max(await self._known())

    async def chosen(self, pg_version: int | None) -> int:
        """Raises BadRequestError for one the node does not have."""
        if pg_version is None:
            return await self.default()
        known = await self._known()
        if pg_version not in known:
            offered = ", ".join(str(version) for version in sorted(known))
            raise BadRequestError(f"pg_version {pg_version}", public=f"pg_version must be one of {offered}")
        return pg_version

    def forget(self) -> None:
        """The agent was restarted."""
        self._versions = frozenset()

    async def _known(self) -> frozenset[int]:
        if not self._versions:
            self._versions = frozenset((await self._agent.call(GetStatus())).engines)
        if not self._versions:
            raise UnavailableError("the node has no engine", public="no PostgreSQL engine is installed")
        return self._versions
