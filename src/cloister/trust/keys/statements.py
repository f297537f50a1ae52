"""The keys of statement logs: a pair for each project and month, whose private half nobody has but the broker.

    private half   AES-256-GCM(a seal of its own, AES-256-GCM(the project's key of the purpose `statements`, half))

So the log is written by whoever knows the public half, without asking; what erases the project ends its log, too; and taking
the one seal ends that month's, in every copy there is, and the project lives on. Each use is recorded first, by `Keeper.use`,
and gives away the keys of the segments that are read, never the half that opens all of them.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from cloister.base.errors import BadRequestError, UnprocessableError
from cloister.trust.audit.segments import SHARE_BYTES, key_of
from cloister.trust.keys.asking import By
from cloister.trust.keys.envelopes import Chain, Envelopes
from cloister.trust.keys.keeper import Keeper
from cloister.trust.keys.keystore import part_of
from cloister.trust.keys.memory import SecretPage, sealed_memfd, write_hexadecimal
from cloister.trust.keys.providers.provider import KEY_BYTES, Context, KeyDamagedError
from cloister.trust.keys.store import STATEMENTS

SHARES_MAX: Final = 64
"""Segments of one reading: their keys, as hexadecimal digits, fill a page."""

GENERATIONS_MAX: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Pair:
    """What lies in a row: of which generation, and the envelope of the private half."""

    project_id: str
    generation: int
    wrapped: bytes


class StatementKeys:
    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper

    async def make(self, project_id: str, generation: int, by: By) -> tuple[bytes, bytes]:
        """The public half of a new pair, and the envelope of the private one."""
        _check(generation)
        await self._keeper.create(project_id, STATEMENTS, by)
        await self._keeper.ensure_seal(part_of(project_id, STATEMENTS, generation))

        def mint(envelopes: Envelopes, chain: Chain) -> tuple[bytes, bytes]:
            with envelopes.opened(chain) as wrapping, SecretPage(KEY_BYTES) as page:
                page.fill_randomly()
                public = X25519PrivateKey.from_private_bytes(page.buffer).public_key().public_bytes_raw()
                inner = wrapping.wrap(page.buffer, _context(chain, generation))
            return public, envelopes.keystore.seal(inner, _sealed(project_id, generation))

        _, made = await self._keeper.use(
            project_id, STATEMENTS, "seal", _for(by, generation), work=mint, give_back=lambda _: None
        )
        return made

    async def open(self, pair: Pair, shares: Sequence[bytes], reason: str, by: By) -> int:
        """The keys of the segments that begin with these shares, one after the other, as `Keeper.unwrap` hands one out.
        Raises ErasedError; UnprocessableError if the envelope is not this generation's."""
        project_id, generation = pair.project_id, pair.generation
        _check(generation)
        if not 0 < len(shares) <= SHARES_MAX or any(len(each) != SHARE_BYTES for each in shares):
            raise BadRequestError(public=f"1 to {SHARES_MAX} segments begin with {SHARE_BYTES} bytes each")

        def open_into_memfd(envelopes: Envelopes, chain: Chain) -> int:
            with envelopes.opened(chain) as wrapping, SecretPage(KEY_BYTES) as page:
                try:
                    inner = envelopes.keystore.unseal(pair.wrapped, _sealed(project_id, generation))
                    wrapping.unwrap_into(inner, _context(chain, generation), page.buffer)
                except KeyDamagedError as error:
                    raise UnprocessableError(str(error), public="the statement log's key does not open") from error
                private = X25519PrivateKey.from_private_bytes(page.buffer)
            with SecretPage(2 * KEY_BYTES * len(shares)) as digits, SecretPage(KEY_BYTES * len(shares)) as keys:
                for position, share in enumerate(shares):
                    try:
                        key = key_of(private, share, project_id, generation)
                    except ValueError as error:
                        raise UnprocessableError(public="a segment does not begin with a share") from error
                    keys.buffer[position * KEY_BYTES : (position + 1) * KEY_BYTES] = key
                write_hexadecimal(keys.buffer, digits.buffer)
                return sealed_memfd(digits.buffer, "cloister")

        by = _for(by, generation, segments=len(shares))
        _, descriptor = await self._keeper.use(
            project_id, STATEMENTS, reason, by, work=open_into_memfd, give_back=os.close
        )
        return descriptor


def _context(chain: Chain, generation: int) -> Context:
    """By the material of what wraps it: its envelope's version changes with every rotation."""
    info = chain.key.info
    return Context(info.project_id, f"{STATEMENTS}/{generation}", info.material)


def _sealed(project_id: str, generation: int) -> Context:
    return Context(part_of(project_id, STATEMENTS, generation), STATEMENTS, generation)


def _for(by: By, generation: int, **details: object) -> By:
    return replace(by, details={**by.details, "generation": generation, **details})


def _check(generation: int) -> None:
    if not 0 < generation <= GENERATIONS_MAX:
        raise BadRequestError(public="generations begin with 1")
