"""Fetching what somebody else's URL leads to, without being led anywhere else.

A member of a project may give an address for the platform to read (`jwks_url`). The process that reads it stands where the
member does not: beside the control database, in the operator's network, near a cloud's metadata service. `addresses` says
where it may be led (pure), `https` goes there.
"""

from cloister.trust.fetching.addresses import Reach
from cloister.trust.fetching.https import Fetcher, FetchError, Place, place_of

__all__ = ["FetchError", "Fetcher", "Place", "Reach", "place_of"]
