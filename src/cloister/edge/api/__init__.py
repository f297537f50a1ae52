"""The HTTP API at `/api/v2`: Neon's shapes, and Cloister's own under `/api/v2/cloister`.

Read in the order of a call: `server` (sockets, TLS, patience) → `application` (the ASGI app) → `router` (bytes of a path
→ route, which says of itself who may: `endpoint`) → `boundary` (the security boundary, one numbered procedure) → `routes/`
(a file per noun: what can be asked) → `wire/` (a file per noun: how it looks from outside). `control/services.py` does the
work.
"""
