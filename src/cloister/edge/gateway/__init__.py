"""The Postgres front door: TLS, who are you, wake, and then bytes both ways.

A client's way, top to bottom: `worker` accepts → `session` tells the story of one client, with `wire` (bytes, TLS in
memory) and `protocol/pgwire/handshake` (what may be said) → `directory` (who may, and waking) → `compute` (logging in) →
`relay`. Beside them: `sessions` (what runs, and stopping it), `cancels`, `trail` (the audit), `admission` (how many, how
often), `certificates`. It knows neither the control plane nor the node: it asks through `base/directory`.
"""

from cloister.edge.gateway.worker import GatewayWorker, ServeOptions

__all__ = ["GatewayWorker", "ServeOptions"]
