"""One statement of a model's on a branch, through `POST /sql`.

Read-only is not a promise of the statement's author. Whatever its text is, three things hold:

(1) It is one statement. It travels in a Parse message of PostgreSQL's extended protocol, and the server's own parser
    refuses a second command there (42601). So there is no `COMMIT; DELETE …` and no `ROLLBACK; BEGIN READ WRITE; …`.
    Nothing here looks for a semicolon: whoever splits SQL without PostgreSQL's parser is fooled sooner or later.
(2) It runs between a `BEGIN READ ONLY` and a `COMMIT` of the gateway's, after a statement that took the transaction's
    snapshot. From there on PostgreSQL refuses to make the transaction writable again (`SET TRANSACTION`, `set_config`,
    also inside of a function or a DO block), and a procedure may not commit inside of a transaction that is not its own.
(3) If the statement ends that transaction itself (`COMMIT`, `ROLLBACK AND CHAIN`), nothing of its author comes after it:
    the session is reset before anybody has it again.

What a read-only transaction does not hold back is what PostgreSQL does not count as writing, because no transaction could
take it back: a NOTIFY, an advisory lock, ending another session, a replication slot. A role without those rights holds
that back (`--role-name`; docs/mcp.md).
"""

import http.client
import json
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import quote, urlencode

from cloister.base.secret import Secret
from cloister.cli.api import connect
from cloister.cli.failure import CommandError
from cloister.cli.target import Target

PRODUCT: Final = "cloister-mcp"
"""The application_name of its sessions and the first word of its User-Agent: how the audit log names it."""

STATEMENT_TIMEOUT_S: Final = 30
# A model that waits longer has forgotten why; a query that runs longer belongs to a person.
REQUEST_TIMEOUT_S: Final = 60.0
# The statement, and before it a wake.
ANSWER_BYTES_MAX: Final = 16 * 1024 * 1024
# The gateway gives at most 10 MiB.
ROWS_MAX: Final = 200
ROWS_CHARS_MAX: Final = 60_000
# A model's attention: what is more is cut, and it is told so.


@dataclass(frozen=True, slots=True)
class Login:
    """Who connects where."""

    host: str
    role: str
    password: Secret[str]
    database: str

    def connection_string(self) -> str:
        query = {"application_name": PRODUCT, "options": f"-c statement_timeout={STATEMENT_TIMEOUT_S}s"}
        who = f"{quote(self.role, safe='')}:{quote(self.password.reveal(), safe='')}"
        return f"postgresql://{who}@{self.host}/{quote(self.database, safe='')}?{urlencode(query, quote_via=quote)}"


def run(target: Target, login: Login, statement: str, parameters: Sequence[Any], *, is_read_only: bool) -> Any:
    """What PostgreSQL answers, within the limits. Raises CommandError with PostgreSQL's own words."""
    headers = {
        "Neon-Connection-String": login.connection_string(),
        "Neon-Array-Mode": "true",
        "Content-Type": "application/json",
        "User-Agent": PRODUCT,
    }
    query = {"query": statement, "params": list(parameters)}
    body: dict[str, Any] = query
    if is_read_only:
        headers["Neon-Batch-Read-Only"] = "true"
        body = {"queries": [{"query": "SELECT 1", "params": []}, query]}  # (2): the first takes the snapshot
    answer = _post(replace(target, host=login.host, path="/sql"), json.dumps(body).encode(), headers)
    result = answer["results"][-1] if is_read_only else answer
    return within_limits(
        str(result["command"]),
        result["rowCount"],
        [str(field["name"]) for field in result["fields"]],
        result["rows"],
    )


def within_limits(command: str, row_count: int | None, columns: list[str], rows: Sequence[Any]) -> dict[str, Any]:
    """The answer as the model gets it: at most ROWS_MAX rows of together ROWS_CHARS_MAX characters."""
    shown: list[Any] = []
    room = ROWS_CHARS_MAX
    for row in rows[:ROWS_MAX]:
        room -= len(json.dumps(row, ensure_ascii=False))
        if room < 0:
            break
        shown.append(row)
    found: dict[str, Any] = {"command": command, "row_count": row_count, "columns": columns, "rows": shown}
    if len(shown) < len(rows):
        found["cut"] = f"{len(shown)} of {len(rows)} rows are shown: ask for fewer rows or shorter values"
    return found


def _post(target: Target, body: bytes, headers: Mapping[str, str]) -> Any:
    connection = connect(target, REQUEST_TIMEOUT_S)
    try:
        connection.request("POST", target.path, body=body, headers=dict(headers))
        response = connection.getresponse()
        content = response.read(ANSWER_BYTES_MAX + 1)
    except TimeoutError as error:
        raise CommandError(f"no answer within {REQUEST_TIMEOUT_S:.0f} s") from error
    except (http.client.HTTPException, ssl.SSLError, OSError) as error:
        raise CommandError(f"the connection ended before the answer: {type(error).__name__}") from error
    finally:
        connection.close()
    try:
        document = json.loads(content)
    except ValueError:
        raise CommandError(f"HTTP status {response.status} and no explanation") from None
    if response.status != 200:
        raise CommandError(refusal(document, response.status))
    return document


def refusal(document: Any, status: int) -> str:
    """PostgreSQL's error in one text: message and SQLSTATE, then what helps to correct the statement."""
    if not isinstance(document, dict) or not document.get("message"):
        return f"HTTP status {status} and no explanation"
    words = [str(document["message"])]
    if document.get("code"):
        words.append(f"(SQLSTATE {document['code']})")
    words += [f"{name}: {document[name]}." for name in ("detail", "hint", "position") if document.get(name)]
    return " ".join(words)
