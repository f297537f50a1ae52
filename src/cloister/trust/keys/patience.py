"""Waiting for the provider of a root key, where it is one that may not answer."""

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

from cloister.trust.keys.providers.provider import ProviderUnavailableError

T = TypeVar("T")

PROVIDER_PATIENCE_S: Final = 10.0
# How long a wake waits for a key service that does not answer; its client would wait for 30.

_RETRY_S: Final = 0.5


class Patience:
    def __init__(self, patience_s: float = PROVIDER_PATIENCE_S) -> None:
        self._patience_s = patience_s

    async def asked(
        self, is_remote: bool, function: Callable[[], T], give_back: Callable[[T], None] | None = None
    ) -> T:
        """Open or make envelopes; in a thread where a provider may have to be waited for, and again while it does not
        answer. `give_back` takes a result that nobody waits for any more."""
        if not is_remote:
            return function()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience_s
        while True:
            # The thread owns the pages it writes to, and is not interrupted: it ends with its own patience.
            call = asyncio.ensure_future(asyncio.to_thread(function))
            try:
                return await asyncio.shield(call)
            except asyncio.CancelledError:
                if give_back is not None:
                    call.add_done_callback(lambda it: None if it.exception() else give_back(it.result()))
                raise
            except ProviderUnavailableError:
                if loop.time() >= deadline:
                    raise
            await asyncio.sleep(_RETRY_S)
