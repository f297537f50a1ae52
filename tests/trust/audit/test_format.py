"""The page for readers without Cloister says what is so: its ten lines are run on a real log."""

import re
from pathlib import Path

from cloister.trust.audit import Event, record
from tests.fix_database import DatabaseAs

PAGE = Path(__file__).parents[3] / "docs" / "audit-log-format.md"


async def test_the_ten_lines_of_the_page_check_a_real_log(database_as: DatabaseAs) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    page: dict[str, object] = {}
    exec(code, page)  # noqa: S102 - our own page
    first_broken = page["first_broken"]
    assert callable(first_broken)
    database = await database_as("cloister_api")
    async with database.transaction() as tx:
        await record(tx, *(Event(action="a.b", actor="user:1", resource="é\n\x7f") for _ in range(3)))
        rows = [tuple(row) for row in await tx.fetch("SELECT seq, body, hash FROM audit_event ORDER BY seq")]
        head = await tx.fetch_row("SELECT seq, hash FROM audit_head")
    assert head is not None
    assert first_broken(rows, *head) is None
    assert first_broken(rows[:2], *head) == 3
    assert first_broken([rows[0], (2, "{}", rows[1][2]), rows[2]], *head) == 2


def test_the_page_names_every_field() -> None:
    text = PAGE.read_text()
    assert [name for name in Event.__struct_fields__ if f"`{name}`" not in text] == []
