"""Says once of a branch that its data is tagged `pii` or `prod` and that it is not protected. The event becomes a finding; when the
branch is protected, or is no longer what it was, the finding is resolved.

- Of default branches and of those without a parent only. A child has its parent's tags from its first moment: a branch for each
  change would be a finding for each, and protecting it would be in the way of deleting it. One that takes a default branch's place
  is the default branch then.
- Not within ADVISE_AFTER: whoever tags a branch and then protects it needs no advice, nor does a script that makes a project.

Whoever resolves the finding and leaves the branch as it is has decided: it is not said again, unless the branch was protected between.
"""

from datetime import datetime, timedelta
from typing import Final

from cloister.base.database import Transaction
from cloister.trust.audit import Action, Event, record
from cloister.trust.sentinel import desk

ADVISE_AFTER: Final = timedelta(days=1)

ADVISED_MAX: Final = 100
# In one round. Where a whole platform was tagged by a script, the rest comes in the rounds after.

RULE: Final = "unprotected-data"
_BY: Final = "platform:api"


async def look(tx: Transaction, now: datetime) -> None:
    over = await tx.fetch(
        """DELETE FROM protection_advice AS it
            WHERE NOT EXISTS (SELECT FROM unguarded_branch WHERE id = it.branch_id) RETURNING branch_id, told_at"""
    )
    await tx.execute(
        "INSERT INTO protection_advice (branch_id, since) SELECT id, $1 FROM unguarded_branch ON CONFLICT DO NOTHING",
        now,
    )
    due = await tx.fetch(
        """UPDATE protection_advice AS it SET told_at = $1
             FROM (SELECT u.* FROM protection_advice a JOIN unguarded_branch u ON u.id = a.branch_id
                    WHERE a.told_at IS NULL AND a.since <= $2 ORDER BY a.since, u.id LIMIT $3) AS found
            WHERE it.branch_id = found.id RETURNING found.*""",
        now,
        now - ADVISE_AFTER,
        ADVISED_MAX,
    )
    events = [
        Event(
            action=Action.BRANCH_ADVISE,
            actor=_BY,
            org_id=row["org_id"],
            project_id=row["project_id"],
            branch_id=row["id"],
            resource=row["name"],
            details={"tags": ", ".join(row["tags"])},
        )
        for row in due
    ]
    told = [row["branch_id"] for row in over if row["told_at"] is not None]
    events += await desk.settled(tx, RULE, told, actor=_BY, note="the branch is protected, or not what it was")
    if events:
        await record(tx, *events)
