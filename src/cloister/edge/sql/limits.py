"""What one SQL client over HTTPS may take, each with its reason. Per worker, where nothing else is said."""

from typing import Final

HELLO_TIMEOUT_S: Final = 10.0
# From accept to the whole ClientHello: one or two packets of an honest client.

HEAD_BYTES_MAX: Final = 16_384
# The head of a request: a connection string, and what browsers and proxies add.
HEAD_TIMEOUT_S: Final = 10.0
# From the end of TLS to the end of the first head.
IDLE_TIMEOUT_S: Final = 75.0
# A kept connection may be silent for so long.

CONNECTION_STRING_BYTES_MAX: Final = 4_096
# PostgreSQL's names have 63 bytes; the rest are options.

BODY_BYTES_MAX: Final = 10 * 1024 * 1024
ANSWER_BYTES_MAX: Final = 10 * 1024 * 1024
# Neon's limits, which its users know. An answer is kept until it is whole, for it may end in an error.
BODY_TIMEOUT_S: Final = 60.0
# 10 MiB over the slowest line that would send them: 170 kB a second.
SEND_TIMEOUT_S: Final = 30.0
# For each 256 kB of an answer. Who reads slower keeps megabytes of ours.
LINGER_S: Final = 3.0
# What is still coming of a body that was refused is read and thrown away for so long, that the refusal arrives.

QUERIES_MAX: Final = 10_000
# Of one batch. A message of a query costs more than the empty query that asks for it.

MEMORY_BYTES_MAX: Final = 256 * 1024 * 1024
MEMORY_PER_ENDPOINT_BYTES_MAX: Final = 64 * 1024 * 1024
MEMORY_ASSURED_BYTES: Final = 1024 * 1024
# Bodies and answers at once, of all and of one endpoint, and what one has whatever others took: one tenant's large answers
# are not another's end, and some endpoints of one tenant do not starve all others.

PROOF_S: Final = 60.0
PROOFS_MAX: Final = 10_000
# A password that was right is not hashed again for so long, while the verifier stays the same one: 200 bytes each.

KEYS_FRESH_S: Final = 300.0
# An issuer that withdrew a key is obeyed within five minutes.
KEYS_USABLE_S: Final = 3_600.0
# An issuer that does not answer for so long has no valid tokens any more: it may have withdrawn every key.

STREAMS_MAX: Final = 100
# Exchanges of one connection over HTTP/2 at the same time: what RFC 9113 recommends at least.
ASKING_MAX: Final = 20
# Of those, at a compute: each has a session there, of the hundred or so that there are. The others wait for their turn.
WINDOW_BYTES: Final = 262_144
# Of bodies that nobody has read yet, of one connection: 5 MB a second over a line of 50 ms.
GUESTS_MAX: Final = 8
# Of one connection over HTTP/2, remembered as proved: an application with a role for reading and one for writing, and some more.
PATIENCE: Final = 2_000
PATIENCE_OF_A_RESET: Final = 20
PATIENCE_FOR_AN_ANSWER: Final = 20
BYTES_OF_A_POINT: Final = 256
# Frames that ask for nothing: a client may send so many ahead, and resets for 20 of them. One that reads its answers may cancel
# every second query, and move its windows with each frame of an answer (16 kB, 64 points), for ever.
