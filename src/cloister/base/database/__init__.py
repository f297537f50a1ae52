"""The control database: one PostgreSQL, reached as the process's own role.

`Database` is a pool; `transaction()` gives a connection inside a transaction, which is passed on as an argument, so that
who commits is visible. Query texts are literals beside the store that uses them.
"""

from cloister.base.database.jsonb import jsonb
from cloister.base.database.migrate import migrate
from cloister.base.database.pool import Database, Transaction

__all__ = ["Database", "Transaction", "jsonb", "migrate"]
