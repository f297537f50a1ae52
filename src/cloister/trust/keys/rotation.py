"""What a rotation makes of a project's keys. Pure planning first; then the envelopes, in memory.

Two kinds. A *rotation* gives the project a new key of its own; what it wraps moves under the new one. A *rewrap* takes a
key as it is to the current root. Neither changes the key of a volume, so no volume is reopened, and both cost a few hundred
bytes a project. Nothing is overwritten: what a new version replaces stays until the database lets it go (migration 0008).
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from cloister.trust.keys.commands import KeyInfo
from cloister.trust.keys.envelopes import Chain, Envelopes
from cloister.trust.keys.store import PROJECT, WrappedKey

BATCH: Final = 100
# Projects in one transaction: what a wake may have to wait for.


@dataclass(frozen=True, slots=True)
class Move:
    chain: Chain
    """The key as it is, with what wraps it."""
    info: KeyInfo
    """Of its new envelope."""


@dataclass(frozen=True, slots=True)
class Plan:
    """For one project: which rows are read, and which will be written."""

    project_id: str
    project_key: WrappedKey | None
    """The newest, None for keys from before there were any."""
    has_new_material: bool
    moving: tuple[Move, ...]
    """What comes to stand under the new project key."""
    top: KeyInfo


def newest(keys: Sequence[WrappedKey], purpose: str, material: int | None = None) -> WrappedKey | None:
    """The version that counts, of this material if one is named: the newest enabled one, or the newest of all where none is
    enabled."""
    of_purpose = [key for key in keys if key.info.purpose == purpose and material in (None, key.info.material)]
    return max(of_purpose, key=lambda key: (key.is_enabled, key.info.version), default=None)


def chain_of(keys: Sequence[WrappedKey], key: WrappedKey) -> Chain:
    """The key and what wraps it: of the project key's versions with that material, the newest enabled."""
    if key.info.provider != PROJECT:
        return Chain(key, None)
    of_material = [it for it in keys if it.info.purpose == PROJECT and str(it.info.material) == key.root_version]
    return Chain(key, newest(of_material, PROJECT))


def plan(project_id: str, keys: Sequence[WrappedKey], provider: str, root: str, *, renew: bool) -> Plan | None:
    """What is to be done so that the project stands under this root, with a new key of its own if `renew`; None if
    nothing is, or if its keys are destroyed."""
    current = newest(keys, PROJECT)
    if current is not None and not current.is_enabled:
        return None
    # Every secret that is in use: while a volume is encrypted anew there are two of it.
    secrets = sorted({(key.info.purpose, key.info.material) for key in keys if key.info.purpose != PROJECT})
    below = [key for secret in secrets if (key := newest(keys, *secret)) is not None and key.is_enabled]
    if not below and current is None:
        return None
    is_there = current is not None and (current.info.provider, current.root_version) == (provider, root)
    renew = renew or current is None
    moving = [key for key in below if renew or key.info.provider != PROJECT]
    if is_there and not moving and not renew:
        return None
    top = KeyInfo(
        project_id=project_id,
        purpose=PROJECT,
        version=following(keys, PROJECT),
        material=(current.info.material if current else 0) + (1 if renew else 0),
        state="enabled",
        provider=provider,
        created_at="",  # the database's clock
    )
    return Plan(project_id, current, renew, tuple(_moves(keys, moving)), top)


def carry_out(what: Plan, envelopes: Envelopes) -> list[WrappedKey]:
    """The new rows. Each was opened once before it is believed."""
    if what.has_new_material:
        top = envelopes.mint_project_key(what.top)
    else:
        assert what.project_key is not None
        top = envelopes.rewrap(what.project_key, what.top)
    rows = [top]
    rows += [envelopes.move(move.chain, top, move.info) for move in what.moving]
    return rows


def following(keys: Sequence[WrappedKey], purpose: str) -> int:
    """The next version of that purpose."""
    return max((key.info.version for key in keys if key.info.purpose == purpose), default=0) + 1


def _moves(keys: Sequence[WrappedKey], moving: Sequence[WrappedKey]) -> Iterator[Move]:
    versions: Counter[str] = Counter()
    for key in moving:
        purpose = key.info.purpose
        version = following(keys, purpose) + versions[purpose]
        versions[purpose] += 1
        yield Move(chain_of(keys, key), msgspec.structs.replace(key.info, version=version, provider=PROJECT))
