"""SQL over HTTPS, as serverless drivers speak it: `POST /sql`, and PostgreSQL's own protocol inside a WebSocket.

It is the gateway's second door (docs/adr/0012) and runs in its workers: who may come in, how often, waking, spare
sessions and the audit are those of port 5432.

`front` accepts and decides whose a connection is → `connection` (TLS) → `http1` or `http2` (an `exchange` each) → `serving`
(who, and may they) → `request` (what is asked) → `query` (asking it) with `values` and `answers` (how it is said in JSON);
`websocket` (frames) → the gateway's own session.
"""

from cloister.edge.sql.front import HttpsFront

__all__ = ["HttpsFront"]
