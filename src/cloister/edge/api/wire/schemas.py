"""Schemas of databases, as SQL, and how two of them differ."""

from cloister.edge.api.wire.common import Wire


class SchemaAnswer(Wire, frozen=True, kw_only=True):
    sql: str


class SchemaDifference(Wire, frozen=True, kw_only=True):
    diff: str
    """Unified; empty if they are the same."""
