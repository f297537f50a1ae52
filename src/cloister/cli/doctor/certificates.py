"""Whether the certificates that are really served verify for the names that clients use, and for how long."""

import socket
import ssl
import struct
import time
from dataclasses import dataclass
from typing import Final

from cloister.cli.doctor.finding import Finding, Subject, fail, ok, warning
from cloister.cli.doctor.listeners import endpoints

ENDPOINT_LABEL: Final = "ep-doctor-check-00000000"
"""Stands for every endpoint: only the wildcard can cover it."""
DAYS_WARNING: Final = 14
# Cloister renews its own far earlier; an operator's that gets this old was forgotten.
DAYS_FAIL: Final = 2

_SSL_REQUEST: Final = struct.pack(">ii", 8, 80877103)
_PATIENCE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Served:
    name: str
    error: str
    """Why it does not verify; empty where it does."""
    protocol: str = ""
    expires_at: float = 0.0


def certificates(subject: Subject) -> list[Finding]:
    settings = subject.platform
    postgres, https = endpoints(subject)
    context = ssl.create_default_context(cafile=None if settings.tls_cert_file else str(settings.paths.ca_file))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    seen = [
        _look(context, postgres, f"{ENDPOINT_LABEL}.{settings.domain}", is_postgres=True),
        _look(context, https, settings.domain, is_postgres=False),
    ]
    return [decide(each, time.time()) for each in seen]


def decide(seen: Served, now: float) -> Finding:
    about = "certificate"
    if seen.error:
        return fail(
            about, f"for {seen.name}: {seen.error}", "clients with sslmode=verify-full refuse it: see docs/operating.md"
        )
    days = (seen.expires_at - now) / 86400
    told = f"for {seen.name}: verified over {seen.protocol}, {days:.0f} days left"
    if days < DAYS_FAIL:
        return fail(about, told, "renew it now")
    if days < DAYS_WARNING:
        return warning(about, told, "renew it")
    return ok(about, told)


def _look(context: ssl.SSLContext, where: tuple[str, int], name: str, *, is_postgres: bool) -> Served:
    with socket.create_connection(where, timeout=_PATIENCE_S) as plain:
        if is_postgres:
            plain.sendall(_SSL_REQUEST)
            if plain.recv(1) != b"S":
                return Served(name, "the server does not offer TLS")
        try:
            with context.wrap_socket(plain, server_hostname=name) as secured:
                certificate = secured.getpeercert() or {}
                expires_at = ssl.cert_time_to_seconds(str(certificate["notAfter"]))
                return Served(name, "", secured.version() or "?", expires_at)
        except ssl.SSLCertVerificationError as error:
            return Served(name, error.verify_message)


def names(subject: Subject) -> list[Finding]:
    """An endpoint's name must lead somewhere."""
    host = f"{ENDPOINT_LABEL}.{subject.platform.domain}"
    try:
        found = sorted({str(each[4][0]) for each in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)})
    except socket.gaierror:
        found = []
    return [decide_names(host, found)]


def decide_names(host: str, found: list[str]) -> Finding:
    if found:
        return ok("names", f"{host} is {', '.join(found)}")
    if host.endswith(".localhost"):
        return fail("names", f"{host} does not resolve", "apt-get install libnss-myhostname")
    return fail("names", f"{host} does not resolve", f"point *.{host.partition('.')[2]} at this server in your DNS")
