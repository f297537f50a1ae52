"""Cloister: a Postgres database for every tenant, on your own servers."""

__version__ = "0.1.0"
