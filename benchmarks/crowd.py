"""Many clients in one process: TLS, SCRAM, then mostly silence. Blocking sockets and a few threads, for what an event loop
keeps for each TLS connection is more than what is measured."""

import base64
import hashlib
import hmac
import itertools
import secrets
import socket
import ssl
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Final, Self

from cloister.protocol.pgwire.frames import message
from cloister.protocol.pgwire.messages import ssl_request, startup_message

QUERY: Final = message(b"Q", b"SELECT 1\0")
PATIENCE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Door:
    host: str
    port: int
    user: str
    password: str
    database: str
    ca_file: str


class Client:
    """Logged in, from its making on."""

    def __init__(self, door: Door, context: ssl.SSLContext) -> None:
        plain = socket.create_connection(("127.0.0.1", door.port), timeout=PATIENCE_S)
        plain.sendall(ssl_request())
        if plain.recv(1) != b"S":
            raise ConnectionError("no TLS")
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = context.wrap_socket(plain, server_hostname=door.host)
        self._socket.sendall(startup_message({"user": door.user, "database": door.database}))
        self._prove(door)
        self._until_ready()

    def ask(self) -> None:
        self._socket.sendall(QUERY)
        self._until_ready()

    def close(self) -> None:
        self._socket.close()

    def _prove(self, door: Door) -> None:
        """SCRAM-SHA-256 as RFC 5802 has it. The salted password is kept: hashing it is not the server's work."""
        first = f"n=,r={secrets.token_urlsafe(18)}"
        self._expect(b"R")
        words = f"n,,{first}".encode()
        self._socket.sendall(message(b"p", b"SCRAM-SHA-256\0" + struct.pack(">I", len(words)) + words))
        server_first = self._expect(b"R")[4:].decode()
        fields = dict(part.split("=", 1) for part in server_first.split(","))
        final = f"c=biws,r={fields['r']}"
        key = _client_key(door.password, fields["s"], int(fields["i"]))
        signed = f"{first},{server_first},{final}".encode()
        signature = hmac.digest(hashlib.sha256(key).digest(), signed, "sha256")
        proof = base64.b64encode(bytes(a ^ b for a, b in zip(key, signature, strict=True))).decode()
        self._socket.sendall(message(b"p", f"{final},p={proof}".encode()))
        self._expect(b"R")

    def _until_ready(self) -> None:
        while self._message()[0] != b"Z":
            pass

    def _expect(self, kind: bytes) -> bytes:
        found, body = self._message()
        if found != kind:
            raise ConnectionError(f"{body!r} in place of {kind!r}")
        return body

    def _message(self) -> tuple[bytes, bytes]:
        kind, length = struct.unpack(">cI", self._exactly(5))
        body = self._exactly(length - 4)
        if kind == b"E":
            raise ConnectionError(body.decode(errors="replace"))
        return kind, body

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            if not (part := self._socket.recv(count - len(data))):
                raise ConnectionError("closed")
            data += part
        return data


@cache
def _client_key(password: str, salt: str, iterations: int) -> bytes:
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(salt), iterations)
    return hmac.digest(salted, b"Client Key", "sha256")


class Crowd:
    """`count` clients of a door, opened some at a time. Use as a context."""

    def __init__(self, door: Door, count: int, *, at_once: int = 16) -> None:
        self._door = door
        self._count = count
        self._at_once = at_once
        self.clients: list[Client] = []
        self.connect_ms: list[float] = []
        self.connects_per_s = 0.0

    def __enter__(self) -> Self:
        context = ssl.create_default_context(cafile=self._door.ca_file)
        began = time.perf_counter()
        try:
            with ThreadPoolExecutor(self._at_once) as pool:
                for client, took in pool.map(lambda _: self._open(context), range(self._count)):
                    self.clients.append(client)
                    self.connect_ms.append(took)
        except BaseException:
            self.__exit__()
            raise
        self.connects_per_s = self._count / (time.perf_counter() - began)
        return self

    def __exit__(self, *_: object) -> None:
        for client in self.clients:
            client.close()

    def ask_around(self, *, at_once: int, seconds: float) -> tuple[float, list[float]]:
        """Everybody in turn, so many at once: queries a second, and how long each took in ms."""
        turns = [itertools.cycle(self.clients[start::at_once]) for start in range(at_once)]
        took: list[list[float]] = [[] for _ in turns]
        stop_at = time.perf_counter() + seconds
        failures: list[Exception] = []

        def keep_asking(number: int) -> None:
            try:
                for client in turns[number]:
                    began = time.perf_counter()
                    if began >= stop_at:
                        return
                    client.ask()
                    took[number].append((time.perf_counter() - began) * 1000)
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=keep_asking, args=(number,)) for number in range(at_once)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        times = [each for ours in took for each in ours]
        return len(times) / seconds, times

    def _open(self, context: ssl.SSLContext) -> tuple[Client, float]:
        began = time.perf_counter()
        client = Client(self._door, context)
        return client, (time.perf_counter() - began) * 1000
