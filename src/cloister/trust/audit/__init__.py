"""The audit log: what happened, appended in the transaction that makes it so, chained by hash.

`record` is how every part of the platform writes, `reader` finds events, `verify` replays the chain. See `events.py` for
what an event is and `actions.py` for everything that can be recorded.
"""

from cloister.trust.audit.actions import Action
from cloister.trust.audit.events import Event
from cloister.trust.audit.log import record

__all__ = ["Action", "Event", "record"]
