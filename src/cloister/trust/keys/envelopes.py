"""What is in what: root key → seal → project key → key. Opens and makes the envelopes of rows, and knows no database.

    a project key     AES-256-GCM(seal, provider's envelope(root key, key))      provider `file`, `pkcs11` …
    a key below it    AES-256-GCM(project key, key)                              provider `project`, root_version its material
    a recording's key AES-256-GCM(recording key, key)                            beside the recording (`recordings.py`)
    before 0008       provider's envelope(root key, key)                         until the first rotation

Every layer authenticates project, purpose and version. Calls wait for the provider: where one is remote, make them in a
thread.
"""

import hmac
from dataclasses import dataclass

from cloister.trust.keys.commands import KeyInfo
from cloister.trust.keys.keystore import Keystore
from cloister.trust.keys.memory import SecretPage
from cloister.trust.keys.providers.provider import KEY_BYTES, Context, KeyDamagedError, Provider, RootKey
from cloister.trust.keys.roots import Roots
from cloister.trust.keys.store import PROJECT, WrappedKey


@dataclass(frozen=True, slots=True)
class Chain:
    """A key, and the project key that wraps it where there is one."""

    key: WrappedKey
    above: WrappedKey | None

    @property
    def top(self) -> WrappedKey:
        return self.above or self.key


@dataclass(frozen=True, slots=True)
class Envelopes:
    roots: Roots
    keystore: Keystore

    def provider_of(self, chain: Chain) -> Provider:
        """Who must be asked. Raises PreconditionError if the broker does not hold that root key."""
        return self.roots.find(chain.top.info.provider, chain.top.root_version)

    def open_into(self, chain: Chain, buffer: memoryview) -> None:
        """Raises KeyDamagedError, ErasedError, PreconditionError, ProviderUnavailableError."""
        if chain.above is None:
            self._open_top_into(chain.key, buffer)
            return
        with self._opened(chain.above) as project_key:
            project_key.unwrap_into(_content(chain.key), context_of(chain.key.info), buffer)

    def opened(self, chain: Chain) -> RootKey:
        """A key that wraps what is not in a row. Close it. Raises as `open_into`."""
        page = SecretPage(KEY_BYTES)
        try:
            self.open_into(chain, page.buffer)
            return RootKey(page)
        except BaseException:
            page.close()
            raise

    def mint(self, above: WrappedKey, info: KeyInfo) -> WrappedKey:
        """A new random key under a project key."""
        with self._opened(above) as project_key, SecretPage(KEY_BYTES) as page:
            page.fill_randomly()
            return _below(project_key, above, info, page.buffer)

    def mint_project_key(self, info: KeyInfo) -> WrappedKey:
        """A new random project key under the current root. The project must have a seal."""
        with SecretPage(KEY_BYTES) as page:
            page.fill_randomly()
            return self._top(info, page.buffer)

    def rewrap(self, key: WrappedKey, info: KeyInfo) -> WrappedKey:
        """A project key as it is, under the current root."""
        with SecretPage(KEY_BYTES) as page:
            self._open_top_into(key, page.buffer)
            return self._top(info, page.buffer)

    def move(self, chain: Chain, above: WrappedKey, info: KeyInfo) -> WrappedKey:
        """A key as it is, under another project key."""
        with SecretPage(KEY_BYTES) as page, self._opened(above) as project_key:
            self.open_into(chain, page.buffer)
            return _below(project_key, above, info, page.buffer)

    def _top(self, info: KeyInfo, plaintext: memoryview) -> WrappedKey:
        """Wrapped, and opened again to see that it can be: what it replaces will be destroyed."""
        provider, context = self.roots.current, context_of(info)
        envelope = provider.wrap(plaintext, context)
        sealed = self.keystore.seal(envelope, context)
        with SecretPage(KEY_BYTES) as page:
            provider.unwrap_into(self.keystore.unseal(sealed, context), context, page.buffer)
            if not hmac.compare_digest(page.buffer, plaintext):
                raise KeyDamagedError(f"{context}: {provider.name} does not give back what it wrapped")
        return WrappedKey(info, provider.root_version, sealed)

    def _open_top_into(self, key: WrappedKey, buffer: memoryview) -> None:
        provider = self.roots.find(key.info.provider, key.root_version)
        context = context_of(key.info)
        envelope = _content(key)
        if key.info.purpose == PROJECT:
            envelope = self.keystore.unseal(envelope, context)
        provider.unwrap_into(envelope, context, buffer)

    def _opened(self, key: WrappedKey) -> RootKey:
        return self.opened(Chain(key, None))


def context_of(info: KeyInfo) -> Context:
    return Context(info.project_id, info.purpose, info.version)


def _below(project_key: RootKey, above: WrappedKey, info: KeyInfo, plaintext: memoryview) -> WrappedKey:
    """Opened again, too: see `_top`."""
    context = context_of(info)
    wrapped = project_key.wrap(plaintext, context)
    with SecretPage(KEY_BYTES) as page:
        project_key.unwrap_into(wrapped, context, page.buffer)
        if not hmac.compare_digest(page.buffer, plaintext):
            raise KeyDamagedError(f"{context}: the project's key does not give back what it wrapped")
    return WrappedKey(info, str(above.info.material), wrapped)


def _content(key: WrappedKey) -> bytes:
    if key.wrapped is None:
        raise KeyDamagedError(f"{context_of(key.info)}: destroyed")
    return key.wrapped
