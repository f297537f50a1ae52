"""Limits that more than one part relies on, each with its reason. A limit of one part stands in that part."""

from typing import Final

RPC_FRAME_BYTES_MAX: Final = 4 * 1024 * 1024
# The largest honest message between our processes is a batch of connection events (about 500 kB).

SCHEMA_BYTES_MAX: Final = 3 * 1024 * 1024
# What pg_dump may say of a schema: some ten thousand tables. It must fit one frame.

RPC_CALL_TIMEOUT_S: Final = 30.0
# Creating a volume takes under a second, a stop after a long checkpoint some ten: beyond this the peer is stuck.

WAKE_TIMEOUT_S: Final = 30.0
# A wake takes 0.1 s; crash recovery after a heavy load can take many. A client that waits longer than this has
# mostly given up (libpq users set connect_timeout=10 or 30).

COMPUTE_STOP_TIMEOUT_S: Final = 20.0
# A fast shutdown writes a checkpoint. After this an immediate shutdown follows: recovery replays the WAL instead.

COMPUTE_STOP_CALL_TIMEOUT_S: Final = COMPUTE_STOP_TIMEOUT_S + 15.0
# Of who asks the agent for a stop: its own patience, then an immediate shutdown and the closing of the volume.

LAST_SENDING_TIMEOUT_S: Final = 20.0
# For this long a planned stop sends what no backup has yet. A compute owes half a minute of WAL at most, unless the store is slow or
# away: then it does not get better by waiting, and a server that has to go down has to.

SUSPEND_TIMEOUT_DEFAULT_S: Final = 300
SUSPEND_TIMEOUT_MIN_S: Final = 60
SUSPEND_TIMEOUT_MAX_S: Final = 604_800
# Neon's values for suspend_timeout_seconds (0 means the default, -1 never).

CU_MIN: Final = 0.25
CU_MAX: Final = 16.0
CU_MEMORY_BYTES: Final = 4 * 1024**3
# One compute unit is one CPU and 4 GiB of memory, as at Neon.

MASKING_RULES_MAX: Final = 1000
# Of one branch. An expression takes up to some kilobytes, with the words that it chooses from.
