"""A courier in this process, over its socket, and a store that it puts into; calls are made as this process's user."""

import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cloister.base.identities import Service
from cloister.base.rpc import Client
from cloister.base.rpc import server as rpc
from cloister.base.settings import Settings
from cloister.node.backups.courier import Courier
from tests.trust.sending.store import BUCKET, Store

PROJECT = "calm-forest-12345678"


class Post:
    """`call` is what the agent asks."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.store = store
        self.bucket = BUCKET
        self.file = settings.paths.store_file
        self.socket = settings.paths.courier_socket
        self.courier = Courier(settings)
        self.client = Client(settings.paths.courier_socket)
        self.call = self.client.call

    def say(self, **changes: Any) -> None:
        """As `cloister backups store set` writes it."""
        made = self.store.for_backups(**({"bucket": self.bucket} | changes))
        self.file.write_bytes(msgspec.json.encode(made))

    def asked(self) -> list[tuple[str, str]]:
        """Of the store, since the last time."""
        found = list(self.store.door.asked)
        self.store.door.asked.clear()
        return found


@asynccontextmanager
async def a_post(
    store: Store, monkeypatch: pytest.MonkeyPatch, *, caller: Service = Service.AGENT
) -> AsyncIterator[Post]:
    """With a bucket of its own; this process is taken for `caller`."""
    monkeypatch.setattr(rpc, "service_of_uid", lambda uid: caller if uid == os.geteuid() else None)
    with tempfile.TemporaryDirectory() as directory:
        settings = Settings(state_dir=directory)
        paths = settings.paths
        paths.courier.mkdir()
        # A socket's path has some hundred bytes.
        paths.courier_socket = Path(directory) / "s"
        monkeypatch.setattr(Settings, "paths", property(lambda _self: paths))
        post = Post(settings, store)
        await post.courier.start()
        try:
            yield post
        finally:
            await post.client.close()
            await post.courier.stop()
