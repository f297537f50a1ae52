"""The one page that the API serves: at `/passkeys`, where a browser is asked to sign. A file that never changes: what it shows it asks for.

Its content policy names the script and the style by their hashes, so no other runs, whatever got into the page; it may ask us, and
nobody else. The answer goes to a command that waits on the loopback interface of the machine on which the browser is
(RFC 8252 §7.3), as a login's does: a link that a stranger sends has nowhere else to take it.
"""

import base64
import re
from hashlib import sha256
from importlib import resources
from typing import Final

from starlette.responses import Response

PATH: Final = "/passkeys"

_HTML: Final = (resources.files("cloister.edge.api.pages") / "passkeys.html").read_text()


def _hash(tag: str) -> str:
    """Of what stands between the page's only two of these tags, as a content policy names it."""
    (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", _HTML, re.DOTALL)
    return f"'sha256-{base64.b64encode(sha256(content.encode()).digest()).decode()}'"


_HEADERS: Final = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hash('script')}",
            f"style-src {_hash('style')}",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
        )
    ),
    "Permissions-Policy": "publickey-credentials-get=(self), publickey-credentials-create=(self)",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def passkeys() -> Response:
    return Response(_HTML, media_type="text/html", headers=_HEADERS)
