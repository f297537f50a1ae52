"""The root keys of a platform: the one that wraps now, and former ones that still open what they wrapped.

A rotation of the root, or a move to another provider, is a new current one; what stands under former ones is wrapped anew
by and by (`rotation.py`), and then they can go.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cloister.base.errors import PreconditionError
from cloister.trust.keys.providers.provider import Context, KeyDamagedError, Provider


@dataclass(slots=True)
class Roots:
    """One object for the whole broker: a move to another root changes it in place."""

    current: Provider
    former: Sequence[Provider] = ()

    def become(self, other: "Roots") -> None:
        """Those that were held are not closed: a thread may be using one."""
        self.current, self.former = other.current, other.former

    @property
    def all(self) -> tuple[Provider, ...]:
        return (self.current, *self.former)

    def find(self, name: str, root_version: str) -> Provider:
        """Raises PreconditionError, with what is missing."""
        for provider in self.all:
            if (provider.name, provider.root_version) == (name, root_version):
                return provider
        held = ", ".join(f"{provider.name}/{provider.root_version}" for provider in self.all)
        raise PreconditionError(public=f"the key is wrapped by root key {name}/{root_version}, the broker holds {held}")

    def unwrap_into(self, wrapped: bytes, context: Context, buffer: memoryview) -> Provider:
        """For an envelope that does not say whose it is: whichever opens it. Raises KeyDamagedError."""
        for provider in self.all:
            try:
                provider.unwrap_into(wrapped, context, buffer)
            except KeyDamagedError:
                continue
            return provider
        raise KeyDamagedError(f"{context}: no root key opens it")

    def close(self) -> None:
        for provider in self.all:
            provider.close()
