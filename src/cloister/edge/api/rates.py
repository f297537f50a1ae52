"""How often one key and one address may call: token buckets, each with a name that the refusal tells.

Pure: the time is an argument. Holds at most `BUCKETS_MAX` buckets; when there are more callers than that, the ones that
have been quiet longest (whose buckets are full again anyway) are forgotten first.
"""

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cloister.edge.api.errors import TooManyRequestsError

BUCKETS_MAX: Final = 20_000
# About 2 MB. An IPv6 stranger has more addresses than any table: see `address_group`.


@dataclass(frozen=True, slots=True)
class Limit:
    name: str
    per_second: float
    burst: int


CALLS_PER_KEY: Final = Limit("calls_per_key", per_second=50.0, burst=200)
# Neon allows 700 a minute and bursts of 40 a second per route. A server of one's own may be asked more often, but one
# runaway script must leave room for others: the control database answers about 1 000 calls a second on two cores.

CHANGES_PER_KEY: Final = Limit("changes_per_key", per_second=20.0, burst=100)
# Each change is an operation with disks and processes behind it. 100 projects at once is an honest script.

CALLS_PER_OWNER: Final = Limit("calls_per_owner", per_second=200.0, burst=800)
CHANGES_PER_OWNER: Final = Limit("changes_per_owner", per_second=80.0, burst=400)
# Of a person's keys together, and of an organization's: four at full speed. Keys cost nothing, and each would bring a limit of its own.

FAILED_LOGINS_PER_ADDRESS: Final = Limit("failed_logins_per_address", per_second=1.0, burst=20)
# Guessing 381 bits is hopeless; this keeps the guesses from being work for the database and lines in the audit log.

LOGINS_PER_ADDRESS: Final = Limit("logins_per_address", per_second=0.5, burst=20)
# Two calls a login. An office behind one address logs in in the morning; each call is a row, and may be a question to the issuer.


class Rates:
    def __init__(self) -> None:
        self._buckets: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()

    def take(self, limit: Limit, who: str, now: datetime) -> None:
        """Take one token. Raises TooManyRequestsError when there is none."""
        tokens = self._tokens(limit, who, now)
        if tokens < 1.0:
            raise TooManyRequestsError(limit.name, (1.0 - tokens) / limit.per_second)
        self._put(limit, who, tokens - 1.0, now)

    def check(self, limit: Limit, who: str, now: datetime) -> None:
        """As `take`, but takes nothing."""
        tokens = self._tokens(limit, who, now)
        if tokens < 1.0:
            raise TooManyRequestsError(limit.name, (1.0 - tokens) / limit.per_second)

    def _tokens(self, limit: Limit, who: str, now: datetime) -> float:
        held, since = self._buckets.get((limit.name, who), (float(limit.burst), now.timestamp()))
        # A clock that was set back gives nothing, rather than taking away.
        return min(float(limit.burst), held + max(0.0, now.timestamp() - since) * limit.per_second)

    def _put(self, limit: Limit, who: str, tokens: float, now: datetime) -> None:
        self._buckets[limit.name, who] = (tokens, now.timestamp())
        self._buckets.move_to_end((limit.name, who))
        while len(self._buckets) > BUCKETS_MAX:
            self._buckets.popitem(last=False)


def address_group(address: str) -> str:
    """Whom one address stands for: itself for IPv4, its /64 for IPv6, since one host has all of that."""
    if ":" not in address or address.startswith("::ffff:"):
        return address
    try:
        return str(ipaddress.IPv6Network((address.partition("%")[0], 64), strict=False))
    except ValueError:
        return address
