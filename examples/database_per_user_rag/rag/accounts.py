"""Who may log in, and which database is theirs: the only thing that the users of this application share.

A row has no document, no question and no vector; those are in the users' own databases. What must stay true: a password of a
user is kept as scrypt's output only, the password of a database only sealed, bound to the user whose it is.
"""

import hashlib
import hmac
import json
import secrets
import sqlite3
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from rag.cloister import Database

PASSWORD_CHARS_MIN: Final = 12
PASSWORD_CHARS_MAX: Final = 256
SCRYPT: Final = {"n": 2**15, "r": 8, "p": 3, "maxmem": 64 * 1024 * 1024, "dklen": 32}
# 32 MiB and some 200 ms a guess.
NONCE_BYTES: Final = 12

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS accounts (
    id TEXT PRIMARY KEY,
    email TEXT NOT NULL UNIQUE COLLATE NOCASE,
    salt BLOB NOT NULL,
    password BLOB NOT NULL,
    session TEXT NOT NULL,     -- what the cookie must name: a new one ends every session
    project_id TEXT,           -- NULL while the sign-up is under way
    database BLOB              -- sealed
) STRICT
"""


class EmailTakenError(Exception):
    pass


@dataclass(frozen=True, slots=True)
class Account:
    id: str
    email: str
    session: str
    project_id: str | None


class Accounts:
    def __init__(self, directory: Path, key: bytes) -> None:
        self._rows = sqlite3.connect(directory / "accounts.db", isolation_level=None, check_same_thread=False)
        self._rows.execute("PRAGMA journal_mode = WAL")
        self._rows.execute("PRAGMA secure_delete = ON")
        self._rows.execute(_SCHEMA)
        self._seal = AESGCM(hmac.digest(key, b"passwords of databases", "sha256"))
        self._nobody = (secrets.token_bytes(16), secrets.token_bytes(32))

    def close(self) -> None:
        self._rows.close()

    def begin(self, email: str, salt: bytes, password: bytes) -> Account:
        """Reserve the address. Raises EmailTakenError."""
        account = Account(secrets.token_hex(8), email, secrets.token_hex(16), None)
        try:
            self._rows.execute(
                "INSERT INTO accounts (id, email, salt, password, session) VALUES (?, ?, ?, ?, ?)",
                (account.id, email, salt, password, account.session),
            )
        except sqlite3.IntegrityError:
            raise EmailTakenError from None
        return account

    def complete(self, account_id: str, database: Database) -> None:
        nonce = secrets.token_bytes(NONCE_BYTES)
        sealed = nonce + self._seal.encrypt(nonce, json.dumps(asdict(database)).encode(), account_id.encode())
        self._rows.execute(
            "UPDATE accounts SET project_id = ?, database = ? WHERE id = ?", (database.project_id, sealed, account_id)
        )

    def remove(self, account_id: str) -> None:
        self._rows.execute("DELETE FROM accounts WHERE id = ?", (account_id,))

    def end_sessions(self, account_id: str) -> None:
        self._rows.execute("UPDATE accounts SET session = ? WHERE id = ?", (secrets.token_hex(16), account_id))

    def find(self, account_id: str) -> Account | None:
        row = self._rows.execute(
            "SELECT id, email, session, project_id FROM accounts WHERE id = ?", (account_id,)
        ).fetchone()
        return Account(*row) if row else None

    def log_in(self, email: str, password: str) -> Account | None:
        """Takes as long for an address that nobody has. Blocks for 200 ms."""
        row = self._rows.execute("SELECT id, salt, password FROM accounts WHERE email = ?", (email,)).fetchone()
        account_id, salt, kept = row or (None, *self._nobody)
        is_right = hmac.compare_digest(hashed(password, salt), kept)
        return self.find(account_id) if account_id is not None and is_right else None

    def database(self, account: Account) -> Database | None:
        row = self._rows.execute("SELECT database FROM accounts WHERE id = ?", (account.id,)).fetchone()
        if row is None or row[0] is None:
            return None
        sealed = bytes(row[0])
        try:
            plain = self._seal.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], account.id.encode())
        except InvalidTag:
            raise RuntimeError("the sealed password is another user's or was made with another key") from None
        return Database(**json.loads(plain))


def hashed(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, **SCRYPT)
