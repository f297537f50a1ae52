"""SCIM 2.0 (RFC 7643, RFC 7644), as far as a directory of people needs it: bytes and texts in, values out.

`documents` reads JSON as SCIM means it, `filters` and `paths` their two small languages, `users` and `groups` what a resource is
and what a PATCH makes of it. Nothing here knows a database, or HTTP. What must stay true: whatever comes in, the outcome is a
value or a ScimError.
"""

from cloister.protocol.scim.documents import MUTABILITY, UNIQUENESS, ScimError, read_document
from cloister.protocol.scim.filters import read_filter
from cloister.protocol.scim.groups import GroupAttributes
from cloister.protocol.scim.paths import Operation, read_operations
from cloister.protocol.scim.users import Email, UserAttributes

__all__ = [
    "MUTABILITY",
    "UNIQUENESS",
    "Email",
    "GroupAttributes",
    "Operation",
    "ScimError",
    "UserAttributes",
    "read_document",
    "read_filter",
    "read_operations",
]
