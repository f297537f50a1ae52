"""PostgreSQL's frontend/backend protocol, version 3, as far as a gateway speaks it itself.

bytes ──▶ frames ──▶ messages ──▶ handshake ──▶ commands, carried out at the rim. `backend` is the other side: logging in
to a compute. `skimming` and `statements` follow a session that goes on by itself, for those who record it, and `masking`
takes the secrets out of what they keep. Pure: no sockets, no clock, no randomness; what a client sends is parsed or
refused with ProtocolViolationError, never anything else.
"""
