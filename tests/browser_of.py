"""Somebody's browser at tests/clients/issuer.mjs: it follows where it is sent, types a name, and stops where the issuer sends it
back to a client on this machine. Nobody listens there: what it would bring is the answer."""

import contextlib
import re
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import httpx

from tests.fix_gateway import write_certificate
from tests.npm import CLIENTS

CLIENT_SECRET = "shared with the issuer:/ %"
_STEPS_MAX = 12


@dataclass(frozen=True)
class RealIssuer:
    url: str
    authority: str
    """PEM."""

    def log_in(self, url: str, name: str) -> str:
        """Where the browser is sent in the end."""
        trusted = ssl.create_default_context(cadata=self.authority)
        with httpx.Client(verify=trusted, timeout=60) as browser:
            answer = browser.get(url)
            for _ in range(_STEPS_MAX):
                if answer.is_redirect:
                    target = str(answer.url.join(answer.headers["location"]))
                    if target.startswith("http://"):
                        return target
                    answer = browser.get(target)
                    continue
                assert answer.status_code == 200, answer.text
                action, prompt = (
                    re.search(pattern, answer.text)
                    for pattern in (r'action="([^"]+)"', r'name="prompt" value="([^"]+)"')
                )
                assert action is not None
                assert prompt is not None
                form = {"prompt": prompt[1], "login": name, "password": "x"}
                answer = browser.post(str(answer.url.join(action[1])), data=form)
        raise AssertionError(answer.text)


def brought_by(target: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(target).query, strict_parsing=True))


@contextlib.contextmanager
def real_issuer() -> Iterator[RealIssuer]:
    with tempfile.TemporaryDirectory(prefix="openid-") as name:
        directory = Path(name)
        write_certificate(directory)
        chain = directory / "chain.pem"
        issuer = subprocess.Popen(
            ["node", str(CLIENTS / "issuer.mjs"), str(directory / "key.pem"), str(chain)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert issuer.stdin is not None
        assert issuer.stdout is not None
        try:
            url = issuer.stdout.readline().strip()
            assert url.startswith("https://"), "it did not start: are the clients installed (scripts/test does)?"
            yield RealIssuer(url, chain.read_text())
        finally:
            issuer.stdin.close()
            issuer.wait()
            issuer.stdout.close()
