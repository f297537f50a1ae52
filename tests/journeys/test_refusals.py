"""What a stranger gets: the right words, the right code, and never a started compute."""

import socket
import struct
import subprocess
import threading
import time
from typing import Any

import psycopg
import pytest

from tests.instance import Instance, Tenant

pytestmark = pytest.mark.root


def test_plaintext_is_refused_with_the_text(tenant: Tenant) -> None:
    said = tenant.psql("SELECT 1", PGSSLMODE="disable", PGCHANNELBINDING="disable")
    assert said.returncode != 0
    assert "connection is insecure (try using `sslmode=require`)" in said.stderr


def test_another_ca_is_refused_by_the_client(tenant: Tenant) -> None:
    said = tenant.psql("SELECT 1", PGSSLROOTCERT="/etc/ssl/certs/ca-certificates.crt")
    assert "certificate verify failed" in said.stderr or "could not read root certificate" in said.stderr


@pytest.mark.parametrize(
    "user", ["neondb_owner", "nobody_here", "cloister_admin", "neon_superuser", "pg_read_all_data"]
)
def test_who_may_not_come_in_gets_one_answer(tenant: Tenant, user: str) -> None:
    said = tenant.psql("SELECT 1", PGUSER=user, PGPASSWORD="npg_wrongwrongwrong1")
    assert f'password authentication failed for user "{user}"' in said.stderr


def test_an_endpoint_that_does_not_exist_gets_the_same_answer(tenant: Tenant) -> None:
    said = tenant.psql("SELECT 1", PGHOST="ep-no-such-12345678.db.localhost")
    assert 'password authentication failed for user "neondb_owner"' in said.stderr


def test_a_thousand_wrong_passwords_wake_nothing(instance: Instance) -> None:
    tenant = instance.create_project("guessing")
    instance.suspend(tenant)
    before = instance.api("GET", f"/projects/{tenant.project_id}/operations")["operations"]
    refused = 0
    lock = threading.Lock()

    def guess(count: int) -> None:
        nonlocal refused
        for number in range(count):
            with pytest.raises(psycopg.OperationalError):
                psycopg.connect(
                    host=tenant.host, port=tenant.port, user=tenant.role, password=f"npg_guess{number:011}",
                    dbname=tenant.database, sslmode="verify-full", sslrootcert=str(tenant.ca_file),
                )  # fmt: skip
            with lock:
                refused += 1

    guessing = [threading.Thread(target=guess, args=(250,)) for _ in range(4)]
    for thread in guessing:
        thread.start()
    for thread in guessing:
        thread.join()
    assert refused == 1000
    assert instance.endpoint(tenant)["current_state"] == "idle"
    assert instance.api("GET", f"/projects/{tenant.project_id}/operations")["operations"] == before
    deadline = time.monotonic() + 90
    while tenant.psql("SELECT 1").returncode != 0:  # the limit on guesses passes
        assert time.monotonic() < deadline
        time.sleep(0.5)


def test_an_address_that_is_not_allowed(instance: Instance) -> None:
    """IP allow refuses before the password, without waking; a session whose address is removed ends."""
    tenant = instance.create_project("walled")
    with tenant.connect() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
        instance.api(
            "PATCH", f"/projects/{tenant.project_id}",
            {"project": {"settings": {"allowed_ips": {"ips": ["192.0.2.7", "198.51.100.0/24"]}}}},
        )  # fmt: skip
        deadline = time.monotonic() + 5
        with pytest.raises(psycopg.OperationalError):
            _ask_until(connection, deadline)
    said = tenant.psql("SELECT 1")
    assert "is not allowed to connect to this endpoint" in said.stderr
    instance.settle(tenant.project_id)
    instance.api(
        "PATCH",
        f"/projects/{tenant.project_id}",
        {"project": {"settings": {"allowed_ips": {"ips": ["127.0.0.0/8", "::1"]}}}},
    )
    assert tenant.psql("SELECT 1").stdout == "1\n"


def _ask_until(connection: psycopg.Connection[Any], deadline: float) -> None:
    while time.monotonic() < deadline:
        connection.execute("SELECT 1")
        time.sleep(0.05)


@pytest.mark.parametrize("entry", ["300.1.1.1", "1.2.3.9-1.2.3.1", "::-1.2.3.4", "1.2.3.4/33", "", "everybody"])
def test_an_unreadable_address_is_refused_when_it_is_written(instance: Instance, tenant: Tenant, entry: str) -> None:
    answer = instance.http.patch(
        f"/projects/{tenant.project_id}", json={"project": {"settings": {"allowed_ips": {"ips": [entry]}}}}
    )
    assert answer.status_code == 400


def test_bytes_behind_an_ssl_request_end_the_connection(tenant: Tenant) -> None:
    """CVE-2021-23214's shape: nothing that was sent in clear may be read as if it came through TLS."""
    with socket.create_connection(("127.0.0.1", tenant.port), timeout=5) as sock:
        sock.sendall(struct.pack(">II", 8, 80877103) + b"Q\x00\x00\x00\x0dSELECT 1\x00")
        assert not sock.recv(1).startswith(b"S")


def test_a_database_that_does_not_exist(tenant: Tenant) -> None:
    with pytest.raises(psycopg.OperationalError) as refused:
        psycopg.connect(tenant.uri.replace(f"/{tenant.database}?", "/nowhere?"))
    assert 'database "nowhere" does not exist' in str(refused.value)


@pytest.mark.parametrize(
    ("words", "is_offered"),
    [
        (["-tls1_3"], True),
        (["-tls1_2"], True),
        (["-tls1_3", "-groups", "ffdhe8192"], False),  # tens of milliseconds of our time for one packet of theirs
        (["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA256"], False),  # CBC
        (["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], False),
    ],
    ids=["tls 1.3", "tls 1.2", "finite field groups", "cbc", "tls 1.1"],
)
@pytest.mark.parametrize("door", ["postgres", "https"])
def test_what_tls_is_offered(
    instance: Instance, tenant: Tenant, door: str, words: list[str], *, is_offered: bool
) -> None:
    start = ["-starttls", "postgres"] if door == "postgres" else []
    port = tenant.port if door == "postgres" else instance.https_port
    said = subprocess.run(
        ["openssl", "s_client", *start, "-connect", f"127.0.0.1:{port}", "-servername", tenant.host, *words],
        capture_output=True, text=True, timeout=20, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert ("Cipher is (NONE)" not in said.stdout) == is_offered, said.stdout
