"""One user's own database: their documents, and the passages that answer a question.

There is no column that says whose a row is, and no condition that could be forgotten: whoever is connected here sees this
user's rows because there are no others. A connection is made for a request and closed after it, so a database whose user
is away falls asleep.
"""

import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import asyncpg

from rag.cloister import Database
from rag.embedding import DIMENSIONS, Vector
from rag.passages import Passage

CONNECT_S: Final = 30.0
STATEMENT_S: Final = 20.0
DOCUMENTS_MAX: Final = 500

_SCHEMA: Final = f"""
CREATE EXTENSION IF NOT EXISTS vector;
CREATE TABLE IF NOT EXISTS documents (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    added_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS passages (
    document_id bigint NOT NULL REFERENCES documents ON DELETE CASCADE,
    number int NOT NULL,
    place text NOT NULL,
    text text NOT NULL,
    embedding vector({DIMENSIONS}) NOT NULL,
    PRIMARY KEY (document_id, number)
);
CREATE INDEX IF NOT EXISTS passages_by_meaning ON passages USING hnsw (embedding vector_cosine_ops);
"""


@dataclass(frozen=True, slots=True)
class Document:
    id: int
    name: str
    added_at: datetime
    passages: int


@dataclass(frozen=True, slots=True)
class Found:
    """A passage, and how near it is to the question: 1 is the same, 0 has nothing to do with it."""

    document: str
    place: str
    number: int
    text: str
    score: float


class TooManyError(Exception):
    pass


class Tenant:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def prepare(self) -> None:
        await self._connection.execute(_SCHEMA)

    async def documents(self) -> list[Document]:
        rows = await self._connection.fetch(
            "SELECT id, name, added_at, (SELECT count(*) FROM passages WHERE document_id = id) AS passages"
            " FROM documents ORDER BY added_at DESC, id DESC"
        )
        return [Document(**row) for row in rows]

    async def add(self, name: str, passages: Sequence[Passage], vectors: Vector) -> None:
        """Raises TooManyError."""
        async with self._connection.transaction():
            if await self._connection.fetchval("SELECT count(*) FROM documents") >= DOCUMENTS_MAX:
                raise TooManyError
            document_id = await self._connection.fetchval("INSERT INTO documents (name) VALUES ($1) RETURNING id", name)
            await self._connection.executemany(
                "INSERT INTO passages (document_id, number, place, text, embedding) VALUES ($1, $2, $3, $4, $5::text::vector)",
                [
                    (document_id, number, passage.place, passage.text, _text(vector))
                    for number, (passage, vector) in enumerate(zip(passages, vectors, strict=True), 1)
                ],
            )

    async def remove(self, document_id: int) -> None:
        await self._connection.execute("DELETE FROM documents WHERE id = $1", document_id)

    async def nearest(self, vector: Vector, count: int) -> list[Found]:
        rows = await self._connection.fetch(
            "SELECT name AS document, place, number, text, 1 - distance AS score FROM ("
            " SELECT *, embedding <=> $1::text::vector AS distance FROM passages ORDER BY distance LIMIT $2"
            ") AS near JOIN documents ON documents.id = document_id ORDER BY distance",
            _text(vector),
            count,
        )
        return [Found(**row) for row in rows]


@asynccontextmanager
async def connected(database: Database, tls: ssl.SSLContext) -> AsyncIterator[Tenant]:
    """Wakes the database if it sleeps. The certificate must be for the name of this user's endpoint."""
    connection = await asyncpg.connect(
        host=database.host,
        port=database.port,
        user=database.role,
        password=database.password,
        database=database.name,
        ssl=tls,
        timeout=CONNECT_S,
        command_timeout=STATEMENT_S,
        server_settings={"application_name": "rag-example"},
    )
    try:
        yield Tenant(connection)
    finally:
        await connection.close(timeout=5)


def _text(vector: Vector) -> str:
    return "[" + ",".join(f"{value:.7g}" for value in vector.tolist()) + "]"
