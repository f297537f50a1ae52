"""Passwords that were right a moment ago, so that a request does not cost a PBKDF2 each.

What is kept is no password: a MAC of it under a key of this process, and the verifier that it was right for. A request
is believed only while that is still the verifier of the route: a changed password, a removed role or an endpoint that is
gone counts as soon as the route says so. What was wrong is not kept: it costs what it costs on port 5432, whatever was
wrong about it.
"""

import hmac
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from cloister.base.secret import Secret
from cloister.protocol.scram import Verifier


class Proofs:
    def __init__(self, *, life_s: float, entries_max: int) -> None:
        self._life_s = life_s
        self._entries_max = entries_max
        self._key = secrets.token_bytes(32)
        self._known: OrderedDict[bytes, tuple[bytes, float]] = OrderedDict()

    async def is_right(
        self,
        who: tuple[str, str],
        password: Secret[str],
        verifier: Verifier,
        now: float,
        check: Callable[[Verifier, str], Awaitable[bool]],
    ) -> bool:
        """`who` is endpoint and role; `check` does the real work."""
        if verifier.is_doomed:
            await check(verifier, password.reveal())  # takes its time, and fails
            return False
        name = self._name(who, password)
        stored = str(verifier).encode()
        expected, since = self._known.get(name, (b"", now))
        if hmac.compare_digest(expected, stored) and now - since < self._life_s:
            return True
        self._known.pop(name, None)
        if not await check(verifier, password.reveal()):
            return False
        self._known[name] = (stored, now)
        if len(self._known) > self._entries_max:
            self._known.popitem(last=False)
        return True

    def _name(self, who: tuple[str, str], password: Secret[str]) -> bytes:
        mac = hmac.new(self._key, digestmod="sha256")
        for part in (*who, password.reveal()):
            encoded = part.encode()
            mac.update(len(encoded).to_bytes(4, "big") + encoded)
        return mac.digest()
