"""SCIM at `/scim/v2`: where an organization's identity provider says who is there and who is not any more.

`application` is its boundary: its own token, its own procedure, no principal, so nothing of the API can be reached through it, and
none of the API's keys opens it. `wire` is what resources look like, `discovery` what the service says of itself.
"""

from cloister.edge.api.scim.application import Scim
from cloister.edge.api.scim.wire import PREFIX

__all__ = ["PREFIX", "Scim"]
