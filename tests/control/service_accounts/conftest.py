"""The organizations of their own tests: ada is an admin here, bob an editor; eve belongs elsewhere."""

from tests.control.organizations.conftest import database

__all__ = ["database"]
