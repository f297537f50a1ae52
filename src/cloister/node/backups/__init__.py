"""A project's history in another place: sealed by the agent, put into the operator's bucket by the courier, and back from there.

The agent:

- `keeper.py`: answers the commands
- `reading.py`: a snapshot's files become chunks
- `segments.py`: which WAL there is, and its content
- `sending.py`: both on their way into the store
- `finding.py`: what the store has, as far as it can be believed
- `restoring.py`, `wal_restoring.py`: a timeline comes back
- `laying.py`: what comes back becomes files
- `fetching.py`: files of a base, or of a dump, out of the store
- `platform.py`, `recovering.py`: the control database, there and back
- `seeing.py`: what is there is opened, by chance
- `objects.py`: the store, through the courier
- `senders.py`: who sends into the store, of two platforms
- `keys.py`: a project's backup keys
- `memory.py`: what was put, so as not to put it again

The courier, which is another process and imports none of these:

- `courier.py`: answers the agent; `commands.py` is what it can be asked
- `store.py`: where backups go
- `looking.py`: whether that can be relied on

What an object is called, how it is sealed, and what the list of a base's files looks like is `protocol/backups`.
"""
