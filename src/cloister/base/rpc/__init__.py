"""Typed calls between our own processes, over Unix sockets with checked peer credentials.

A frame is a 4-byte big-endian length and a MessagePack document. The kernel tells who is at the other end
(SO_PEERCRED), and each server states which service may send which command. See `wire.py` for the frames,
`server.py` and `client.py` for the two ends.
"""

from cloister.base.rpc.client import Client
from cloister.base.rpc.server import Connection, Peer, Server
from cloister.base.rpc.wire import Command

__all__ = ["Client", "Command", "Connection", "Peer", "Server"]
