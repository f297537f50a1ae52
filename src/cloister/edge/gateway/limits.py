"""The gateway's limits, each with its reason. Per worker, where nothing else is said."""

from typing import Final

HANDSHAKE_TIMEOUT_S: Final = 15.0
# From accept to proof. A slow mobile link needs 2 to 4 s; beyond this it is somebody holding sockets.

DIRECTORY_PATIENCE_S: Final = 10.0
# How long a new client waits for an API process that is being restarted (about 2 s).

WIRE_BUFFER_BYTES_MAX: Final = 16_384
# What one client may make us keep before its relay runs: a startup packet and a password, or one TLS record.

HALF_OPEN_MAX: Final = 8_192
HALF_OPEN_PER_NETWORK_MAX: Final = 512
# Connections that have not proved who they are: about 5 kB each. At the limit the oldest of the same network is closed,
# which is a waiting one: an honest client needs milliseconds.

ATTEMPTS_PER_NETWORK_PER_S: Final = 1_000
ATTEMPTS_PER_NETWORK_BURST: Final = 3_000
# Of one /24 or /64: more than a TLS handshake per core can follow, so it stops floods and not a company behind NAT.
ATTEMPTS_PER_ENDPOINT_PER_S: Final = 600
ATTEMPTS_PER_ENDPOINT_BURST: Final = 1_500
# Neon's numbers for one endpoint.
FAILURES_PER_S: Final = 1.0
FAILURES_BURST: Final = 100
# Wrong passwords for one role at one endpoint from one network: 86 500 a day against 2^60. Only failures count, so a
# pool that reconnects is never hindered; a pool with an old password is heard again a second after it is corrected.
CANCELS_PER_NETWORK_PER_S: Final = 50
CANCELS_PER_NETWORK_BURST: Final = 200
# A key has 57 random bits at least (ADR 0002).

BUCKETS_MAX: Final = 50_000
# Networks and endpoints remembered by a limiter (100 bytes each); the one that was quiet longest is forgotten first.

PASSWORD_CHECKS_MAX: Final = 64
PASSWORD_CHECK_THREADS: Final = 2
# PBKDF2 takes 1.5 ms per password in clear (clients without SNI); more waiting than this is a flood.

ROUTE_TTL_RUNNING_S: Final = 1.0
# A running compute may change a role's verifier without telling anybody.
ROUTE_TTL_ASLEEP_S: Final = 60.0
# Nothing changes while it sleeps but through the API, which invalidates; this is the net under that.
ROUTE_STALE_S: Final = 60.0
# With the API away, what was known serves this long.
ROUTE_STALE_AFTER_S: Final = 0.25
# The API has this long to answer before a stale route is used.
ROUTES_MAX: Final = 10_000

CONNECT_PAUSE_FIRST_S: Final = 0.001
CONNECT_EAGER_S: Final = 0.06
# For so long the pauses do not grow: a try costs 50 µs, a longer pause costs the client half of itself.
CONNECT_PAUSE_MAX_S: Final = 0.05
# A compute that was just started listens after some 15 ms.
REFUSING_COMPUTE_S: Final = 5.0
# A compute that was started and still has no socket after this has failed: ask for another.

ENDED_SESSIONS_MAX: Final = 5
# Each takes a stop of the compute at the very moment, or a tenant that ends its own sessions as fast as they begin.

FREEZE_S_MAX: Final = 30.0
# The control plane decides within a second; if it died meanwhile, clients must not hang for ever.

INVALIDATE_WITHIN_S: Final = 5.0
# Sessions of an address that is no longer allowed end within this.

AUDIT_QUEUE_MAX: Final = 10_000
AUDIT_BATCH_MAX: Final = 200
AUDIT_FLUSH_S: Final = 0.1
AUDIT_RETRY_S: Final = 0.5
# About 5 MB of events, ten seconds of refusals at full speed. With the queue full, nobody new comes in.
AUDIT_FLUSH_AT_END_S: Final = 5.0

METER_LOOK_S: Final = 5.0
# A look costs a microsecond for each session, and what is found is found by so much later.
METER_BYTES_MIN: Final = 8 * 1024 * 1024
METER_ROWS_MIN: Final = 100_000
# The least that the sentinel remarks: what is less needs no telling before the session's end.

STATEMENT_TEXT_CHARS_MAX: Final = 4_096
# Of a statement that is recorded: what it did. Longer ones are mostly values.
STATEMENT_BATCH_MAX: Final = 1_000
STATEMENT_BATCH_BYTES_MAX: Final = 600_000
# Four times as much is still a message between processes: a batch that is none could never be sent, nor what is behind it.
STATEMENT_FLUSH_S: Final = 0.5
# A segment of the statement log has so many, or what came in this time.
STATEMENTS_BYTES_HIGH: Final = 16 * 1024 * 1024
STATEMENTS_BYTES_MAX: Final = 64 * 1024 * 1024
# At the first, clients that are audited are not read any more; what they sent already may need the rest, of which one project
# gets at most half of the whole.
STATEMENTS_ASSURED_BYTES: Final = 256 * 1024
# Of a project that has less there, clients are read on, whatever others have.
OBSERVED_BYTES_MAX: Final = 256 * 1024 * 1024
OBSERVED_PER_ENDPOINT_BYTES_MAX: Final = 64 * 1024 * 1024
OBSERVED_ASSURED_BYTES: Final = 1024 * 1024
# What is known of sessions that are recorded: prepared statements and what is under way, of all, of one endpoint, and what one
# has whatever others took. A hundred sessions of an ORM that prepares a thousand statements each need 50 MB, and PostgreSQL
# gigabytes for the same.

CANCEL_TIMEOUT_S: Final = 5.0
# libpq waits for the end of the connection that carried the cancel request.

CERTIFICATE_CHECK_S: Final = 1.0

WRITE_BUFFER_HIGH_BYTES: Final = 262_144
# Beyond this the other side is not read from: per session at most this and one read, each way.

DRAIN_TIMEOUT_S: Final = 12.0
# After SIGTERM; the supervisor has patience for 15 s.

FRONT_SHARE: Final = 4
# One of so many clients may be HTTPS': a port that is flooded leaves the other its descriptors.

FILES_RESERVED: Final = 128
# Descriptors that are not clients': listeners, the directory, logs, libraries.

LINGER_S: Final = 5.0
# A client that does not read its last message is cut off after this.

REUSE_FROM_PER_S: Final = 5
# From so many connections of one kind in a second, their backends are reused; a person never notices.
SPARE_S: Final = 1.0
# How long a cleaned session waits for a client: as long as a verifier is believed.
REUSE_BACKEND_S_MAX: Final = 5.0
# A backend older than this is not given on: role and database settings are those of its start.
SPARES_MAX: Final = 64
BACKEND_EXIT_S: Final = 0.05
# A backend that lost its client is gone after a few milliseconds.
REUSE_KINDS_MAX: Final = 4_096

KEYS_TTL_S: Final = 60.0
# What was told of other issuers' keys is believed for so long; an invalidation ends it at once.
KEYS_WISH_S: Final = 10.0
# A stranger who names unknown keys makes the control plane look no oftener, for one endpoint and worker.
KEYS_TIMEOUT_S: Final = 15.0
# An issuer has five seconds to answer, and a few are asked at once.
