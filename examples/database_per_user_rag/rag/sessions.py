"""The cookie: whose session it is, signed; and the token that a form must bring. Pure; the clock is an argument.

The cookie holds the account, the account's current session word and the time, and an HMAC over them. A form's token is
another HMAC over the same, so it belongs to the session and no other site can know it. Before anybody has logged in there
is an anonymous session, so that the log-in form is protected as well.
"""

import hmac
import re
import secrets
from dataclasses import dataclass
from typing import Final

COOKIE: Final = "rag_session"
LIFETIME_S: Final = 12 * 3600
_FORM: Final = re.compile(r"([0-9a-f]{0,16})\.([0-9a-f]{32})\.(\d{1,12})\.([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Session:
    account_id: str
    """Empty: nobody has logged in."""
    word: str
    began: int

    @property
    def text(self) -> str:
        return f"{self.account_id}.{self.word}.{self.began}"


class Sessions:
    def __init__(self, key: bytes) -> None:
        self._cookies = hmac.digest(key, b"sessions", "sha256")
        self._forms = hmac.digest(key, b"tokens of forms", "sha256")

    def begin(self, now: float, account_id: str = "", word: str = "") -> tuple[Session, str]:
        session = Session(account_id, word or secrets.token_hex(16), int(now))
        return session, f"{session.text}.{_mac(self._cookies, session.text)}"

    def read(self, cookie: str, now: float) -> Session | None:
        match = _FORM.fullmatch(cookie)
        if match is None:
            return None
        session = Session(match[1], match[2], int(match[3]))
        is_ours = hmac.compare_digest(match[4], _mac(self._cookies, session.text))
        return session if is_ours and 0 <= now - session.began < LIFETIME_S else None

    def token(self, session: Session) -> str:
        return _mac(self._forms, session.text)

    def is_token(self, session: Session, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self.token(session).encode())


def _mac(key: bytes, text: str) -> str:
    return hmac.new(key, text.encode(), "sha256").hexdigest()
