"""What the application is told by its environment."""

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

KEY_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Settings:
    api: str
    """Cloister's API: https://db.example.com/api/v2."""
    api_key: str
    ca_file: str | None
    """Cloister's authority; None: those that this machine trusts."""
    origin: str
    """Where browsers reach this application: https://ask.example.com. Behind http:// the cookie is not `Secure`."""
    data: Path
    """The accounts and the application's own key."""
    llm_url: str | None
    """An OpenAI-compatible API, up to and without /chat/completions."""
    llm_key: str | None
    llm_model: str

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Settings":
        """Raises SystemExit with what is missing."""
        missing = [name for name in ("CLOISTER_API_HOST", "CLOISTER_API_KEY") if not environment.get(name)]
        if missing:
            raise SystemExit(f"set {' and '.join(missing)}: where Cloister's API is, and a key for this application")
        host = environment["CLOISTER_API_HOST"].rstrip("/")
        if not host.startswith("https://"):
            raise SystemExit("CLOISTER_API_HOST must begin with https://: passwords are in the answers")
        return cls(
            api=host if host.endswith("/api/v2") else f"{host}/api/v2",
            api_key=environment["CLOISTER_API_KEY"],
            ca_file=environment.get("CLOISTER_CA_FILE") or None,
            origin=environment.get("RAG_ORIGIN", "http://localhost:8000").rstrip("/"),
            data=Path(environment.get("RAG_DATA", "data")),
            llm_url=environment.get("RAG_LLM_URL") or None,
            llm_key=environment.get("RAG_LLM_KEY") or None,
            llm_model=environment.get("RAG_LLM_MODEL", "gpt-4o-mini"),
        )


def own_key(directory: Path) -> bytes:
    """The key that seals passwords and signs sessions, made at the first start. Keep it from the accounts' backups: either
    of the two alone opens nothing."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / "key"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        key = path.read_bytes()
        if len(key) != KEY_BYTES:
            raise SystemExit(f"{path} does not hold {KEY_BYTES} bytes") from None
        return key
    with os.fdopen(descriptor, "wb") as file:
        key = secrets.token_bytes(KEY_BYTES)
        file.write(key)
    return key
