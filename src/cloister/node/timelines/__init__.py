"""Timelines: where the data of branches is, inside a project's open volume, and how one becomes another.

- `keeper.py`: answers the commands, with volumes held open
- `work.py`: who may touch which one, and work that can be ended
- `making.py`: how a timeline comes to be, step by step
- `single.py`: what is said to a cluster that no compute works on
- `history.py`: what one was: which points can be recovered to, and what that needs
- `snapshots.py`: places to recover from
- `archive.py`: finished WAL, out of the tenant's reach
- `following.py`: what a standby follows becomes files of its own
- `layout.py`: where everything is; built aside and renamed into place
- `clone.py`: a cluster's files become another cluster's, by reflink
- `tree.py`: root's hands in a directory that a tenant writes
- `usage.py`: how much room one takes
- `control.py`: what a cluster says of itself; and, pure:
- `wal.py`: places in the log and names of its segments
- `label.py`: PostgreSQL's backup label
- `recovery.py`: what a recovery is told, and what it tells
- `scrub.py`: what is said to a cluster to take its secrets out
- `schema_copy.py`: what is said to two, so that one gets the other's schema
"""
