"""Changing the root key, on the server: the configuration is written, the broker tries it, and if it cannot, all is as before."""

import asyncio
import os
from pathlib import Path

from cloister.base.errors import CloisterError, UnavailableError
from cloister.base.identities import Service, gid_of, uid_of
from cloister.base.settings import Paths, load
from cloister.cli.failure import CommandError
from cloister.trust.keys.client import KeyClient
from cloister.trust.keys.providers import configuration, create_root_key


def move(state_dir: Path, description: bytes) -> None:
    """Raises CommandError, and then the old root wraps as before."""
    if os.geteuid() != 0:
        raise CommandError("the root key is changed by root, on the server itself")
    try:
        root = configuration.parse_root(description)
        paths = load(state_dir).paths
        if isinstance(root, configuration.FileRoot) and not Path(root.path).exists():
            create_root_key(Path(root.path), uid=uid_of(Service.KEYS), gid=gid_of(Service.KEYS))
        _take(paths, root)
    except CloisterError as error:
        raise CommandError(error.public) from error
    except OSError as error:
        raise CommandError(str(error)) from error


def _take(paths: Paths, root: configuration.Root) -> None:
    before = configuration.load(paths.key_providers)
    configuration.save(paths.key_providers, before.moved_to(root))
    try:
        asyncio.run(KeyClient(paths.broker_socket).reload_roots())
    except UnavailableError:
        # Perhaps it was taken and only the answer got lost: the old one goes on, and what the new one wrapped opens.
        former = [root, *(it for it in before.former if it != root)]
        configuration.save(paths.key_providers, configuration.Configuration(current=before.current, former=former))
        raise
    except BaseException:
        configuration.save(paths.key_providers, before)
        raise
