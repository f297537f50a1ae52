"""The pages. Every form takes the same steps (`form`): origin, size, token; only then it is looked at.

Nothing here says whose a document is: a request has an account, an account has a database, and that is where it looks.
"""

import asyncio
import logging
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import asyncpg
from starlette.applications import Starlette
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.templating import Jinja2Templates

from rag.accounts import PASSWORD_CHARS_MAX, PASSWORD_CHARS_MIN, Account, Accounts, EmailTakenError, hashed
from rag.answers import PASSAGES, answer
from rag.cloister import Cloister, CloisterError
from rag.embedding import Model
from rag.passages import FILE_BYTES_MAX, UnreadableError, read
from rag.sessions import COOKIE, LIFETIME_S, Session, Sessions
from rag.settings import Settings, own_key
from rag.tenant import DOCUMENTS_MAX, Tenant, TooManyError, connected

_log = logging.getLogger(__name__)

HERE: Final = Path(__file__).parent
BODY_BYTES_MAX: Final = FILE_BYTES_MAX + 64 * 1024
QUESTION_CHARS_MAX: Final = 500
NAME_CHARS_MAX: Final = 120
ATTEMPTS_MAX: Final = 10
ATTEMPTS_S: Final = 60.0
# Log-ins and sign-ups for one address or from one: ten a minute.
ATTEMPTS_KEPT: Final = 10_000
HASHES_AT_ONCE: Final = 2
# Each takes 32 MiB and a core.

_EMAIL: Final = re.compile(r"[^@\s]{1,64}@[^@\s]{1,190}")
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


class Attempts:
    """How often somebody has tried lately."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, list[float]] = OrderedDict()

    def take(self, who: str, now: float) -> None:
        recent = [moment for moment in self._seen.pop(who, []) if now - moment < ATTEMPTS_S]
        self._seen[who] = [*recent, now]
        if len(self._seen) > ATTEMPTS_KEPT:
            self._seen.popitem(last=False)
        if len(recent) >= ATTEMPTS_MAX:
            raise HTTPException(429, "Too many attempts: wait a minute.")


class Application:
    def __init__(self, settings: Settings, *, is_limited: bool = True) -> None:
        key = own_key(settings.data)
        self.settings = settings
        self.accounts = Accounts(settings.data, key)
        self.sessions = Sessions(key)
        self.cloister = Cloister(settings)
        self.model = Model()
        self.templates = Jinja2Templates(HERE / "templates")
        self._attempts = Attempts() if is_limited else None
        self._hashes = asyncio.Semaphore(HASHES_AT_ONCE)

    # -- pages

    async def home(self, request: Request) -> Response:
        account = self._account(request)
        if account is None:
            return self._page(request, "welcome.html")
        async with self._database(account) as tenant:
            return self._page(request, "documents.html", account=account, documents=await tenant.documents())

    async def ask(self, request: Request) -> Response:
        account = self._required(request)
        form = await self._form(request)
        question = " ".join(_field(form, "question").split())[:QUESTION_CHARS_MAX]
        if not question:
            return RedirectResponse("/", 303)
        began = time.perf_counter()
        (vector,) = await asyncio.to_thread(self.model.embed, [question])
        async with self._database(account) as tenant:
            found = await tenant.nearest(vector, PASSAGES)
            documents = await tenant.documents()
        said = await answer(question, found, self.model, self.settings)
        took_ms = round((time.perf_counter() - began) * 1000)
        return self._page(
            request,
            "documents.html",
            account=account,
            documents=documents,
            question=question,
            answer=said,
            took_ms=took_ms,
        )

    async def add_document(self, request: Request) -> Response:
        account = self._required(request)
        form = await self._form(request)
        file = form.get("file")
        if not isinstance(file, UploadFile) or not file.filename:
            return await self._documents_with(request, account, "Choose a file first.")
        name = Path(file.filename.replace("\\", "/")).name[-NAME_CHARS_MAX:]
        try:
            passages = await asyncio.to_thread(read, name, await file.read())
            vectors = await asyncio.to_thread(self.model.embed, [passage.text for passage in passages])
            async with self._database(account) as tenant:
                await tenant.add(name, passages, vectors)
        except UnreadableError as error:
            return await self._documents_with(request, account, str(error))
        except TooManyError:
            return await self._documents_with(request, account, f"There are {DOCUMENTS_MAX} documents already.")
        except asyncpg.exceptions.DiskFullError:
            return await self._documents_with(request, account, "Your database is full: remove a document.")
        return RedirectResponse("/", 303)

    async def remove_document(self, request: Request) -> Response:
        account = self._required(request)
        await self._form(request)
        async with self._database(account) as tenant:
            await tenant.remove(request.path_params["document_id"])
        return RedirectResponse("/", 303)

    async def sign_up(self, request: Request) -> Response:
        if request.method == "GET":
            return self._page(request, "sign_up.html")
        form = await self._form(request)
        email, password = _field(form, "email").strip(), _field(form, "password")
        self._attempt(request, email)
        if not _EMAIL.fullmatch(email) or not PASSWORD_CHARS_MIN <= len(password) <= PASSWORD_CHARS_MAX:
            fault = f"An e-mail address, and a password of at least {PASSWORD_CHARS_MIN} characters."
            return self._page(request, "sign_up.html", 422, fault=fault, email=email)
        salt = secrets.token_bytes(16)
        async with self._hashes:
            kept = await asyncio.to_thread(hashed, password, salt)
        try:
            account = self.accounts.begin(email, salt, kept)
        except EmailTakenError:
            return self._page(request, "sign_up.html", 409, fault="That address has an account already.", email=email)
        # From here on a failure leaves neither an account without a database nor a database without an account.
        project_id = None
        try:
            database = await self.cloister.create(account.id)
            project_id = database.project_id
            async with connected(database, self.cloister.tls) as tenant:
                await tenant.prepare()
            self.accounts.complete(account.id, database)
        except BaseException:
            try:
                if project_id is not None:
                    await asyncio.shield(self.cloister.erase(project_id))
            except CloisterError as error:
                _log.error("project %s belongs to nobody and could not be erased: %s", project_id, error)
            finally:
                self.accounts.remove(account.id)
            raise
        return self._logged_in(account)

    async def log_in(self, request: Request) -> Response:
        if request.method == "GET":
            return self._page(request, "log_in.html")
        form = await self._form(request)
        email = _field(form, "email").strip()
        self._attempt(request, email)
        async with self._hashes:
            account = await asyncio.to_thread(
                self.accounts.log_in, email, _field(form, "password")[:PASSWORD_CHARS_MAX]
            )
        if account is None:
            return self._page(
                request, "log_in.html", 401, fault="That is not the right address and password.", email=email
            )
        return self._logged_in(account)

    async def log_out(self, request: Request) -> Response:
        account = self._required(request)
        await self._form(request)
        self.accounts.end_sessions(account.id)
        return self._logged_out()

    async def delete_account(self, request: Request) -> Response:
        account = self._required(request)
        if request.method == "GET":
            return self._page(request, "delete_account.html", account=account)
        form = await self._form(request)
        self._attempt(request, account.email)
        async with self._hashes:
            confirmed = await asyncio.to_thread(self.accounts.log_in, account.email, _field(form, "password"))
        if confirmed is None:
            return self._page(request, "delete_account.html", 401, account=account, fault="That is not your password.")
        # The database first: if that fails, the account is still there to try again from.
        if account.project_id is not None:
            await self.cloister.erase(account.project_id)
        self.accounts.remove(account.id)
        return self._logged_out("/?erased=1")

    async def failed(self, request: Request, error: Exception) -> Response:
        match error:
            case HTTPException():
                status, fault = error.status_code, error.detail
            case CloisterError() | OSError() | asyncpg.PostgresError() | asyncpg.InterfaceError() | TimeoutError():
                status, fault = 503, "Your database cannot be reached at the moment. Try again soon."
            case _:
                status, fault = 500, "Something went wrong, and it is our fault."
        return self._page(request, "failed.html", status, fault=fault)

    # -- steps

    async def _form(self, request: Request) -> FormData:
        """(1) The browser says that it comes from a page of ours; (2) it is not too long; (3) it has the session's token."""
        origin = request.headers.get("origin")
        if origin is not None and origin != self.settings.origin:
            raise HTTPException(403, "This form came from another site.")
        declared = request.headers.get("content-length", "")
        if not declared.isascii() or not declared.isdigit() or int(declared) > BODY_BYTES_MAX:
            raise HTTPException(413, f"At most {FILE_BYTES_MAX // 1024 // 1024} MB.")
        form = await request.form(max_files=1, max_fields=8, max_part_size=64 * 1024)
        session = self._session(request)
        if session is None or not self.sessions.is_token(session, _field(form, "token")):
            raise HTTPException(403, "This form is too old: load the page again.")
        return form

    def _attempt(self, request: Request, email: str) -> None:
        if self._attempts is not None:
            now = time.monotonic()
            self._attempts.take(f"from {request.client.host if request.client else ''}", now)
            self._attempts.take(f"for {email.lower()[:256]}", now)

    def _session(self, request: Request) -> Session | None:
        return self.sessions.read(request.cookies.get(COOKIE, ""), time.time())

    def _account(self, request: Request) -> Account | None:
        session = self._session(request)
        account = self.accounts.find(session.account_id) if session is not None and session.account_id else None
        return account if account is not None and session is not None and account.session == session.word else None

    def _required(self, request: Request) -> Account:
        account = self._account(request)
        if account is None:
            raise HTTPException(401, "Log in first.")
        return account

    def _database(self, account: Account) -> AbstractAsyncContextManager[Tenant]:
        database = self.accounts.database(account)
        if database is None:
            raise HTTPException(503, "Your database is still being made.")
        return connected(database, self.cloister.tls)

    # -- answers

    async def _documents_with(self, request: Request, account: Account, fault: str) -> Response:
        async with self._database(account) as tenant:
            documents = await tenant.documents()
        return self._page(request, "documents.html", 422, account=account, documents=documents, fault=fault)

    def _page(self, request: Request, name: str, status: int = 200, **values: Any) -> Response:
        session, cookie = self._session(request), None
        if session is None or (session.account_id and self._account(request) is None):
            session, cookie = self.sessions.begin(time.time())
        shared = {
            "token": self.sessions.token(session),
            "account": self._account(request),
            "minimum": PASSWORD_CHARS_MIN,
        }
        page = self.templates.TemplateResponse(request, name, shared | values, status, _HEADERS)
        if cookie is not None:
            self._set_cookie(page, cookie)
        return page

    def _logged_in(self, account: Account) -> Response:
        """A new session: a cookie from before the log-in is worth nothing after it."""
        went = RedirectResponse("/", 303, _HEADERS)
        self._set_cookie(went, self.sessions.begin(time.time(), account.id, account.session)[1])
        return went

    def _logged_out(self, where: str = "/") -> Response:
        went = RedirectResponse(where, 303, _HEADERS)
        went.delete_cookie(COOKIE)
        return went

    def _set_cookie(self, response: Response, value: str) -> None:
        response.set_cookie(
            COOKIE, value, max_age=LIFETIME_S, httponly=True, samesite="lax",
            secure=self.settings.origin.startswith("https://"),
        )  # fmt: skip


def application(settings: Settings, *, is_limited: bool = True) -> Starlette:
    app = Application(settings, is_limited=is_limited)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await app.cloister.close()
        app.accounts.close()

    faults: tuple[Any, ...] = (
        HTTPException,
        CloisterError,
        OSError,
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        500,
    )
    handlers = dict.fromkeys(faults, app.failed)
    return Starlette(
        routes=[
            Route("/", app.home),
            Route("/ask", app.ask, methods=["POST"]),
            Route("/documents", app.add_document, methods=["POST"]),
            Route("/documents/{document_id:int}/remove", app.remove_document, methods=["POST"]),
            Route("/sign-up", app.sign_up, methods=["GET", "POST"]),
            Route("/log-in", app.log_in, methods=["GET", "POST"]),
            Route("/log-out", app.log_out, methods=["POST"]),
            Route("/account/delete", app.delete_account, methods=["GET", "POST"]),
            Mount("/static", StaticFiles(directory=HERE / "static")),
        ],
        exception_handlers=handlers,
        lifespan=lifespan,
    )


def _field(form: FormData, name: str) -> str:
    value = form.get(name)
    return value if isinstance(value, str) else ""
