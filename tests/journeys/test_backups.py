"""What was committed is in the operator's bucket within a minute, and comes back from there: a branch that was deleted for good, and a
project whose volume is gone.

A real platform, its courier and its agent; the bucket is moto's, with object lock, and its two credentials may what docs/backups.md says.
How long it takes is printed (`pytest -s`); docs/backups.md has what was measured.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from tests import branches
from tests.instance import Instance, Tenant
from tests.trust.sending.store import BUCKET, READER, WRITER, Store, a_store
from tests.trust.sentinel.receiver import make_certificate

pytestmark = pytest.mark.root

PROMISED_S = 60.0
ROWS = 20_000


@pytest.fixture(scope="module")
def bucket(shared_mortal: Instance, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """The platform sends to it, and does not any more afterwards."""
    if not shared_mortal.descendants():
        shared_mortal.up()
    here = tmp_path_factory.mktemp("bucket")
    make_certificate(here / "both.pem")
    readable = shared_mortal.state_dir / "certificates" / "bucket.pem"
    readable.write_bytes((here / "both.pem").read_bytes().partition(b"-----BEGIN PRIVATE")[0])
    readable.chmod(0o644)
    secrets = here / "credentials"
    secrets.write_text(
        "".join(
            f"[{profile}]\naws_access_key_id = {name}\naws_secret_access_key = none-of-moto's-business\n"
            for profile, name in (("writer", WRITER), ("reader", READER))
        )
    )
    with a_store(here / "both.pem") as store:
        store.make()
        shared_mortal.cloister(
            *("backups", "store", "set", f"s3://{BUCKET}/db", "--region", "eu-central-1", "--endpoint", store.endpoint),
            *("--credentials", str(secrets), "--ca-file", str(readable), "--private"),
        )
        try:
            yield store
        finally:
            shared_mortal.cloister("backups", "store", "remove")
            readable.unlink()


def write(tenant: Tenant, rows: int, note: str) -> datetime:
    """When it was committed."""
    with tenant.connect() as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (n bigserial PRIMARY KEY, note text)")
        connection.execute("INSERT INTO kept (note) SELECT %s FROM generate_series(1, %s)", (note, rows))
    return datetime.now(UTC)


def count(tenant: Tenant) -> dict[str, int]:
    with branches.connected(tenant) as connection:
        return dict(connection.execute("SELECT note, count(*) FROM kept GROUP BY note ORDER BY note").fetchall())


def of_branch(instance: Instance, tenant: Tenant) -> Any:
    found = instance.api("GET", f"/cloister/projects/{tenant.project_id}/backups")
    return next(it for it in found["branches"] if it["branch_id"] == tenant.branch_id)


def await_sent(instance: Instance, tenant: Tenant, committed: datetime) -> float:
    """How long it was on this host alone."""
    while True:
        told = of_branch(instance, tenant)
        if "sent_until" in told and datetime.fromisoformat(told["sent_until"]) >= committed:
            return (datetime.now(UTC) - committed).total_seconds()
        waited = (datetime.now(UTC) - committed).total_seconds()
        assert waited < 2 * PROMISED_S, f"not sent for {waited:.0f} s: {told}"
        time.sleep(0.2)


def restored(instance: Instance, tenant: Tenant, *words: str) -> Tenant:
    instance.cloister("backups", "restore", *words, "--project-id", tenant.project_id)
    found = instance.api("GET", f"/projects/{tenant.project_id}/branches", params={"search": words[-1]})["branches"]
    endpoints = instance.api("GET", f"/projects/{tenant.project_id}/endpoints")["endpoints"]
    endpoint = next(it for it in endpoints if it["branch_id"] == found[0]["id"])
    return replace(tenant, branch_id=found[0]["id"], endpoint_id=endpoint["id"], host=endpoint["host"])


def test_what_was_committed_comes_back_from_the_bucket(mortal: Instance, bucket: Store) -> None:
    """1. A base, then rows, then some more: within a minute they are in the bucket.
    2. A branch that was deleted for good comes back with every row.
    3. The platform stops, and the project's volume is gone: every branch comes back, with every row, also of what was written just before.
    4. Nothing that is in the bucket can be taken away with what this host has, nor read there.
    """
    main = mortal.create_project("kept elsewhere")
    write(main, ROWS, "before the base")
    dev = branches.create_child(mortal, main, "dev")
    write(dev, ROWS, "of dev")
    mortal.cloister("backups", "now", "--project-id", main.project_id)
    mortal.cloister("backups", "check", "--project-id", main.project_id)
    mortal.cloister("backups", "check", "main", "--restore", "--project-id", main.project_id)
    # 1.
    committed = write(main, ROWS, "after the base")
    with ThreadPoolExecutor(max_workers=1) as meanwhile:
        sent = meanwhile.submit(await_sent, mortal, main, committed)
        # 2.
        last = write(dev, 1, "the last of dev")
        mortal.suspend(dev)
        await_sent(mortal, dev, last)
        branches.ask(mortal, "DELETE", f"/projects/{main.project_id}/branches/{dev.branch_id}?hard_delete=true")
        mortal.settle(main.project_id)
        began = time.monotonic()
        again = restored(mortal, dev, dev.branch_id, "--as", "dev again")
        assert count(again) == {"before the base": ROWS, "of dev": ROWS, "the last of dev": 1}
        branch_rto_s = time.monotonic() - began
        rpo_s = sent.result()
    # 3.
    assert mortal.request("POST", f"/cloister/projects/{main.project_id}/backups/restore_project").status_code == 409
    write(main, 1, "the last words")
    write(again, 1, "and of this one")
    mortal.settle(main.project_id)
    said = mortal.down()
    assert "written" in said, "that it is sent is told"
    assert "not known" not in said, said
    assert main.project_id not in said, "it would have been named if it had not been sent"
    lose(mortal, main)
    mortal.up()
    began = time.monotonic()
    mortal.cloister("backups", "restore", "--whole", "--project-id", main.project_id)
    there = {"before the base": ROWS, "after the base": ROWS, "the last words": 1}
    assert count(main) == there
    whole_rto_s = time.monotonic() - began
    assert count(again) == {"before the base": ROWS, "of dev": ROWS, "the last of dev": 1, "and of this one": 1}
    again_sent = write(main, 1, "after it came back")
    mortal.cloister("backups", "now", "main", "--project-id", main.project_id)
    await_sent(mortal, main, again_sent)
    # 4.
    objects = bucket.client.list_object_versions(Bucket=BUCKET, Prefix="db/projects/")["Versions"]
    assert objects
    assert not any(
        b"before the base" in bucket.client.get_object(Bucket=BUCKET, Key=it["Key"])["Body"].read() for it in objects
    )
    print(f"\nRPO {rpo_s:.1f} s, a branch back after {branch_rto_s:.1f} s, a project after {whole_rto_s:.1f} s")


def lose(instance: Instance, tenant: Tenant) -> None:
    """The disk with its image."""
    images = list((instance.state_dir / "volumes").glob(f"{tenant.project_id}.*"))
    assert images
    for image in images:
        image.unlink()
