"""`python -m rag`: serves the application on RAG_LISTEN (127.0.0.1:8000)."""

import os

import uvicorn

from rag.settings import Settings
from rag.web import application


def main() -> None:
    host, _, port = os.environ.get("RAG_LISTEN", "127.0.0.1:8000").rpartition(":")
    is_limited = os.environ.get("RAG_LIMITS", "on") != "off"
    uvicorn.run(
        application(Settings.of(os.environ), is_limited=is_limited),
        host=host,
        port=int(port),
        server_header=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
