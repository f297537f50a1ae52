"""Other people's clients for Node, as `tests/clients/package-lock.json` pins them; `scripts/test` installs them."""

from pathlib import Path

CLIENTS = Path(__file__).parent / "clients"
NODE_MODULES = CLIENTS / "node_modules"

NEON_OPENAPI = NODE_MODULES / "@neondatabase/api-client/public-v2-for-users.gen.yaml"
"""Neon's own description of its API. It ships in this package and is not ours to carry along."""

NEON = NODE_MODULES / "neon/dist/cli.js"
"""Neon's command line."""
