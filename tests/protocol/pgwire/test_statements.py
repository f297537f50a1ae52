"""What a session said, statement by statement: with a real server and real drivers, cut anywhere, and from liars."""

import asyncio
import contextlib
import select
import struct
import tempfile
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.protocol.pgwire import statements
from cloister.protocol.pgwire.frames import ProtocolViolationError, message
from cloister.protocol.pgwire.statements import TEXT_BYTES_MAX, Kind, Observer, Outcome, Statement
from tests.fix_database import ControlDatabase

# ── with a real server ────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class Tee:
    """A way to the server past an observer, which begins at the first ReadyForQuery."""

    url: str
    heard: list[Statement] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, far: Path) -> None:
        observer, greeting = Observer(), b""
        far_reader, far_writer = await asyncio.open_unix_connection(str(far))

        async def to_server() -> None:
            while data := await reader.read(65536):
                if self._is_ready(greeting):
                    observer.from_client(data, 0.0)
                far_writer.write(data)
            far_writer.close()

        async def to_client() -> None:
            nonlocal greeting
            while data := await far_reader.read(65536):
                if self._is_ready(greeting):
                    self._note(observer.from_server(data, 0.0))
                else:
                    greeting += data
                writer.write(data)
            self._note(observer.end(0.0))
            writer.close()

        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(to_server())
                both.create_task(to_client())
        finally:
            for each in (writer, far_writer):
                each.close()
                with contextlib.suppress(OSError):
                    await each.wait_closed()

    def _is_ready(self, greeting: bytes) -> bool:
        return greeting.endswith(message(b"Z", b"I"))

    def _note(self, heard: list[Statement]) -> None:
        self.heard += heard
        self.news.set()

    async def told(self, text: str) -> Statement:
        """The last statement with this in its text, once there is one."""
        async with asyncio.timeout(30):
            while not (found := [it for it in self.heard if text in it.text]):
                self.news.clear()
                await self.news.wait()
        return found[-1]


@pytest.fixture
async def tee(control_database: ControlDatabase) -> AsyncIterator[Tee]:
    (far,) = control_database.socket_dir.glob(".s.PGSQL.*[0-9]")
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        tee = Tee(f"postgresql://postgres@/{control_database.name}?host={directory}")
        tasks: set[asyncio.Task[None]] = set()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            tasks.add(asyncio.create_task(tee.pipe(reader, writer, far)))

        server = await asyncio.start_unix_server(accept, f"{directory}/{far.name}")
        yield tee
        server.close()
        await asyncio.gather(*tasks)
        await server.wait_closed()


async def test_a_script_is_one_statement_with_a_result_for_each_command(tee: Tee) -> None:
    async with await psycopg.AsyncConnection.connect(tee.url, autocommit=True) as connection:
        await connection.execute("CREATE TABLE t (n int); INSERT INTO t SELECT generate_series(1, 7); SELECT n FROM t")
        with pytest.raises(psycopg.errors.DivisionByZero):
            await connection.execute("SELECT 1; SELECT 1/0")
    heard = await tee.told("CREATE TABLE t")
    assert [it.tag for it in heard.results] == ["CREATE TABLE", "INSERT 0 7", "SELECT 7"]
    assert (heard.kind, heard.outcome, heard.rows, heard.rows_sent) == (Kind.SIMPLE, Outcome.DONE, 14, 7)
    assert heard.bytes_sent == 7 * (2 + 4 + 1)
    failed = await tee.told("SELECT 1/0")
    assert (failed.outcome, failed.sqlstate, failed.error) == (Outcome.FAILED, "22012", "division by zero")
    assert [it.tag for it in failed.results] == ["SELECT 1"]


async def test_executions_of_a_prepared_statement_have_its_text(tee: Tee) -> None:
    connection = await asyncpg.connect(tee.url)
    asked = await connection.prepare("SELECT g FROM generate_series(1, $1::int) g")
    assert [len(await asked.fetch(n)) for n in (3, 5)] == [3, 5]
    async with connection.transaction():
        cursor = await connection.cursor("SELECT generate_series(1, 10) AS portal")
        assert len(await cursor.fetch(4)) == 4
        assert len(await cursor.fetch(9)) == 6
    with pytest.raises(asyncpg.UndefinedTableError):
        await connection.fetch("SELECT * FROM nowhere WHERE 1 = $1", 1)
    await connection.close()
    prepared = [it for it in tee.heard if "generate_series(1, $1::int)" in it.text]
    assert [(it.rows, it.outcome) for it in prepared] == [(3, Outcome.DONE), (5, Outcome.DONE)]
    portal = [it for it in tee.heard if "AS portal" in it.text]
    assert [(it.rows_sent, it.outcome) for it in portal] == [(4, Outcome.SUSPENDED), (6, Outcome.DONE)]
    assert (await tee.told("nowhere")).sqlstate == "42P01"


async def test_what_a_pipeline_skips_after_an_error_is_not_waited_for(tee: Tee) -> None:
    async with (
        await psycopg.AsyncConnection.connect(tee.url, autocommit=True) as connection,
        connection.pipeline() as pipeline,
    ):
        await connection.execute("SELECT 'first'")
        bad = await connection.execute("SELECT 'second'::int")
        await connection.execute("SELECT 'skipped'")
        with pytest.raises(psycopg.errors.InvalidTextRepresentation):
            await bad.fetchall()
        with contextlib.suppress(psycopg.Error):
            await pipeline.sync()
        await connection.execute("SELECT 'after'")
    assert (await tee.told("'first'")).outcome is Outcome.DONE
    assert (await tee.told("'second'")).sqlstate == "22P02"
    assert (await tee.told("'after'")).rows == 1
    assert not [it for it in tee.heard if "'skipped'" in it.text]


async def test_copy_both_ways_is_counted(tee: Tee) -> None:
    async with await psycopg.AsyncConnection.connect(tee.url, autocommit=True) as connection:
        await connection.execute("CREATE TABLE c (n int)")
        async with connection.cursor() as cursor:
            async with cursor.copy("COPY c FROM STDIN") as copy:
                for n in range(1000):
                    await copy.write_row((n,))
            async with cursor.copy("COPY c TO STDOUT") as copy:
                assert sum([len(piece) async for piece in copy]) == 3890
            with pytest.raises(psycopg.errors.BadCopyFileFormat):
                async with cursor.copy("COPY c (n) FROM STDIN") as copy:
                    await copy.write("1\t2\n")
            await cursor.execute("SELECT count(*) FROM c")
    taken, sent, failed = await tee.told("COPY c FROM"), await tee.told("COPY c TO"), await tee.told("COPY c (n)")
    assert (taken.rows, taken.bytes_taken, taken.outcome) == (1000, 3890, Outcome.DONE)
    assert (sent.rows, sent.bytes_sent, sent.rows_sent) == (1000, 3890, 0)
    assert (failed.outcome, failed.sqlstate) == (Outcome.FAILED, "22P04")
    assert (await tee.told("count(*)")).rows == 1


async def test_a_copy_through_the_extended_protocol_with_its_early_sync(tee: Tee) -> None:
    """libpq sends Sync with the execution, before it knows that there will be data to send."""
    await asyncio.to_thread(_copy_by_parameters, tee.url)
    assert [it.rows for it in tee.heard if it.text == "COPY c FROM STDIN"] == [3]
    assert (await tee.told("'after'")).rows == 1


def _copy_by_parameters(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE c (n int)")
        server = connection.pgconn
        server.send_query_params(b"COPY c FROM STDIN", [])
        assert _result(server) == psycopg.pq.ExecStatus.COPY_IN
        server.put_copy_data(b"3\n4\n5\n")
        server.put_copy_end()
        assert _result(server) == psycopg.pq.ExecStatus.COMMAND_OK
        assert _result(server) is None
        connection.execute("SELECT 'after'")


def _result(server: psycopg.pq.abc.PGconn) -> int | None:
    """The next one. libpq's own way to wait for it would keep Python's lock, and with it the tee."""
    while server.flush() == 1 or server.is_busy():
        select.select([server.socket], [], [], 0.1)
        server.consume_input()
    result = server.get_result()
    return None if result is None else result.status


async def test_a_commit_that_fails_at_sync_is_heard(tee: Tee) -> None:
    connection = await asyncpg.connect(tee.url)
    await connection.execute("CREATE TABLE d (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    with pytest.raises(asyncpg.UniqueViolationError):
        await connection.fetch("INSERT INTO d SELECT 1 FROM generate_series(1, $1::int)", 2)
    await connection.close()
    failed = [it for it in tee.heard if it.outcome is Outcome.FAILED]
    assert [it.sqlstate for it in failed] == ["23505"]
    assert (await tee.told("INSERT INTO d")).rows == 2


async def test_what_was_under_way_when_the_session_ended_is_told(tee: Tee) -> None:
    async with await psycopg.AsyncConnection.connect(tee.url, autocommit=True) as other:
        connection = await asyncpg.connect(tee.url)
        pid = connection.get_server_pid()
        asked = asyncio.create_task(connection.fetch("SELECT pg_sleep($1)", 600))
        find = "SELECT pid FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"
        async with asyncio.timeout(30):
            while await (await other.execute(find, (pid,))).fetchone() is None:
                pass
        await other.execute("SELECT pg_terminate_backend(%s)", (pid,))
        with pytest.raises((asyncpg.AdminShutdownError, asyncpg.ConnectionDoesNotExistError)):
            await asked
    assert (await tee.told("SELECT pg_sleep($1)")).sqlstate == "57P01"


# ── by hand ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def query(text: str) -> bytes:
    return message(b"Q", text.encode() + b"\0")


def parse(text: str, name: str = "") -> bytes:
    return message(b"P", name.encode() + b"\0" + text.encode() + b"\0\0\0")


def bind(name: str = "", portal: str = "") -> bytes:
    return message(b"B", portal.encode() + b"\0" + name.encode() + b"\0\0\0\0\0\0\0")


def execute(portal: str = "") -> bytes:
    return message(b"E", portal.encode() + b"\0\0\0\0\0")


def done(tag: str) -> bytes:
    return message(b"C", tag.encode() + b"\0")


SYNC, READY = message(b"S", b""), message(b"Z", b"I")
PARSED, BOUND, NO_DATA, ROW = message(b"1", b""), message(b"2", b""), message(b"n", b""), message(b"D", b"\0\0")
FAILED = message(b"E", b"SERROR\0C57014\0Mcanceled\0\0")


def hear(*turns: tuple[bytes, bytes], piece: int = 1 << 20) -> list[Statement]:
    observer, heard = Observer(), []
    for asked, answered in turns:
        for start in range(0, len(asked), piece):
            observer.from_client(asked[start : start + piece], 0.0)
        for start in range(0, len(answered), piece):
            heard += observer.from_server(answered[start : start + piece], 0.0)
    return heard + observer.end(0.0)


STORY = (
    (query("SELECT 1"), message(b"T", b"\0\0") + ROW + done("SELECT 1") + READY),
    (
        parse("SELECT 2", "two") + message(b"D", b"Stwo\0") + bind("two") + execute() + SYNC,
        PARSED + message(b"t", b"\0\0") + NO_DATA + BOUND + ROW * 3 + done("SELECT 3") + READY,
    ),
    (bind("two") + execute() + bind("two") + execute() + SYNC, BOUND + done("SELECT 0") + BOUND + FAILED + READY),
    (query("COPY x FROM STDIN"), message(b"G", b"\0\0\0")),
    (message(b"d", b"1\n") + message(b"c", b""), done("COPY 1") + READY),
    (message(b"F", b"\0" * 10), message(b"V", b"\0" * 4) + READY),
    (query(""), message(b"I", b"") + READY),
    (query("SELECT 3"), b""),
)


def test_the_story_in_any_pieces_is_the_same_story() -> None:
    whole = hear(*STORY)
    assert [(it.text, it.outcome, it.rows) for it in whole] == [
        ("SELECT 1", Outcome.DONE, 1),
        ("SELECT 2", Outcome.DONE, 3),
        ("SELECT 2", Outcome.DONE, 0),
        ("SELECT 2", Outcome.FAILED, 0),
        ("COPY x FROM STDIN", Outcome.DONE, 1),
        ("", Outcome.DONE, 0),
        ("", Outcome.DONE, 0),
        ("SELECT 3", Outcome.UNKNOWN, 0),
    ]
    for piece in (1, 2, 3, 5, 7):
        assert hear(*STORY, piece=piece) == whole


def test_what_is_asked_is_told_before_anything_comes_of_it() -> None:
    observer = Observer()
    asked = observer.from_client(
        parse("SELECT 2", "two") + bind("two", "p") + execute("p") + SYNC + query("SELECT 3"), 0.0
    )
    assert [(it.number, it.kind, it.text, it.name, it.source) for it in asked] == [
        (1, Kind.EXTENDED, "SELECT 2", "two", ""),
        (2, Kind.EXTENDED, "", "p", "two"),
        (3, Kind.EXTENDED, "", "p", ""),
        (4, Kind.SIMPLE, "SELECT 3", "", ""),
    ]
    assert [(it.is_preparation, it.is_binding) for it in asked[:3]] == [(True, False), (False, True), (False, False)]
    assert observer.is_unanswered
    heard = observer.from_server(PARSED + BOUND + done("SELECT 1") + READY + done("SELECT 1") + READY, 0.0)
    assert [(it.number, it.text) for it in heard] == [(3, "SELECT 2"), (4, "SELECT 3")]
    assert not observer.is_unanswered


def test_times_are_the_callers() -> None:
    observer = Observer()
    observer.from_client(query("SELECT 1"), 5.0)
    (heard,) = observer.from_server(done("SELECT 1") + READY, 7.5)
    assert (heard.began, heard.ended) == (5.0, 7.5)


def test_a_long_text_is_cut_and_told_apart_by_a_digest() -> None:
    one, other = "SELECT '" + "x" * TEXT_BYTES_MAX + "1'", "SELECT '" + "x" * TEXT_BYTES_MAX + "2'"
    (first,) = hear((query(one), done("SELECT 1") + READY))
    (second,) = hear((parse(other) + bind() + execute() + SYNC, PARSED + BOUND + done("SELECT 1") + READY))
    assert len(first.text) == len(second.text) == TEXT_BYTES_MAX
    assert first.text == second.text == one[:TEXT_BYTES_MAX]
    assert first.text_bytes == len(one)
    assert first.digest != second.digest
    for length in (TEXT_BYTES_MAX - 1, TEXT_BYTES_MAX):
        (whole,) = hear((query("x" * length), done("X") + READY))
        assert (whole.text_bytes, whole.digest, len(whole.text)) == (length, b"", length)


def test_names_beyond_the_servers_length_are_one_name() -> None:
    long = "n" * 63
    (heard,) = hear(
        (parse("SELECT 1", long + "a"), PARSED), (bind(long + "b") + execute() + SYNC, BOUND + done("SELECT 1") + READY)
    )
    assert heard.text == "SELECT 1"


def test_what_was_prepared_in_sql_has_a_name_and_no_text() -> None:
    (heard,) = hear((bind("by_sql", "p") + execute("p") + SYNC, BOUND + done("SELECT 1") + READY))
    assert (heard.text, heard.name, heard.rows) == ("", "p", 1)


@pytest.mark.parametrize("end", ["DEALLOCATE two", 'deallocate prepare "two";', "DEALLOCATE ALL", "DISCARD ALL"])
def test_what_sql_deallocates_makes_room(end: str) -> None:
    observer = Observer()
    observer.from_client(parse("SELECT 2", "two"), 0.0)
    observer.from_server(PARSED, 0.0)
    assert observer._names_bytes > 0
    observer.from_client(query(end), 0.0)
    tag = end.upper() if end.endswith("ALL") else "DEALLOCATE"
    observer.from_server(done(tag) + READY, 0.0)
    assert observer._names_bytes == 0


@pytest.mark.parametrize("words", ["DEALLOCATE a", "DEALLOCATE PREPARE", ""])
def test_white_space_is_looked_at_once(words: str) -> None:
    """A gateway looks at it on the loop that serves everybody: tried at every split, this took 11 seconds."""
    text = words + " " * (TEXT_BYTES_MAX - 100) + "--"
    began = time.process_time()
    (heard,) = hear((query(text), done("DEALLOCATE") + READY))
    assert time.process_time() - began < 3
    assert heard.text == text


def test_limits_are_refused_not_exceeded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statements, "NAMES_BYTES_MAX", 2_000)
    monkeypatch.setattr(statements, "PENDING_MAX", 20)
    with pytest.raises(ProtocolViolationError, match="too many prepared"):
        hear(*[(parse("SELECT 1", f"s{n}"), PARSED) for n in range(20)])
    with pytest.raises(ProtocolViolationError, match="too many messages"):
        hear((query("SELECT 1") * 21, b""))
    with pytest.raises(ProtocolViolationError, match="does not end"):
        hear((message(b"E", b"x" * 2_000), b""))
    with pytest.raises(ProtocolViolationError, match="does not end"):
        hear((message(b"Q", b"SELECT 1"), b""))
    assert len(hear((query("x"), done("SELECT 1") * 1_500 + READY))[0].results) == statements.RESULTS_MAX


def test_texts_that_no_server_answers_are_not_heaped_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compute that reads on and says nothing; and one that failed once, and says nothing of the rest."""
    monkeypatch.setattr(statements, "PENDING_BYTES_MAX", 1_000)
    for kind in (query, parse):
        with pytest.raises(ProtocolViolationError, match="too much"):
            hear((kind("x" * 100) * 11, b""))
    with pytest.raises(ProtocolViolationError, match="too much"):
        hear((parse("x"), FAILED), (query("x" * 100) * 11, b""))
    # What was answered, or told, does not count any more: however it was answered.
    observer = Observer()
    for _ in range(5):
        for asked, answer in (
            (query("x" * 400), done("SELECT 1") + READY),
            (query("x" * 400), FAILED + READY),
            (query("COPY t FROM STDIN" + "x" * 400) + SYNC, message(b"G", b"\0\0\0")),
            (message(b"c", b"") + SYNC, done("COPY 0") + READY + READY),
            (parse("x" * 400) + parse("y" * 400), PARSED + PARSED),
            (parse("x" * 400) + parse("y" * 400), FAILED),
            (query("x" * 400) + query("y" * 400), b""),
            (parse("z" * 400) * 5 + SYNC, READY),
        ):
            observer.from_client(asked, 0.0)
            observer.from_server(answer, 0.0)
        assert observer._pending_bytes == 0
        assert observer.held_bytes == observer._names_bytes


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (lambda _: SYNC, b""),
        (lambda n: query(f"SELECT {n}"), b""),
        (lambda n: query(f"SELECT {n:03000}"), b""),
        (lambda n: parse(f"SELECT {n}", f"{n:063}"), PARSED),
        (lambda n: parse(f"SELECT {n:03000}", f"{n:063}"), PARSED),
        (lambda n: bind(f"{n:063}", f"{n:062}"), b""),
        (lambda n: b"" if n else query("a script"), done("INSERT 0 1")),
    ],
)
def test_what_is_held_is_counted(said: Callable[[int], bytes], answer: bytes) -> None:
    """No less than Python says, whatever a client heaps up: texts, names, results, or messages without any."""
    observer = Observer()
    pieces = [said(n) for n in range(500)]
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for piece in pieces:
        observer.from_client(piece, 1.5)
        observer.from_server(answer, 1.5)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert observer.held_bytes > 0.9 * (after - before)


def test_what_is_half_read_is_counted_until_it_is_whole() -> None:
    observer = Observer()
    whole = query("x" * 50_000)
    observer.from_client(whole[:40_000], 0.0)
    assert observer.held_bytes > 39_000
    observer.from_client(whole[40_000:], 0.0)
    observer.from_server(done("SELECT 1") + READY, 0.0)
    assert observer.held_bytes == 0


def test_what_is_closed_is_not_counted() -> None:
    observer = Observer()
    observer.from_client(parse("x" * 400, "s") + bind("s", "p"), 0.0)
    observer.from_server(PARSED + BOUND, 0.0)
    assert observer.held_bytes > 800
    observer.from_client(message(b"C", b"Ss\0") + message(b"C", b"Pp\0"), 0.0)
    observer.from_server(message(b"3", b"") * 2, 0.0)
    assert observer.held_bytes == 0


def test_a_server_that_says_what_nobody_asked_is_no_server() -> None:
    for answer in (PARSED, BOUND, ROW, done("SELECT 1"), message(b"R", b"\0\0\0\0"), message(b"K", b"\0" * 8)):
        with pytest.raises(ProtocolViolationError, match="not asked"):
            hear((b"", answer))
    # What it may say unasked: a notice, a setting, a notification; that it ends; a ReadyForQuery too much.
    assert hear((b"", message(b"N", b"\0") + message(b"S", b"a\0b\0") + message(b"A", b"") + FAILED + READY)) == []


@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=60)), max_size=20))
def test_bytes_that_are_no_protocol_are_refused_with_one_error(pieces: list[tuple[bool, bytes]]) -> None:
    observer = Observer()
    with contextlib.suppress(ProtocolViolationError):
        for is_clients, data in pieces:
            if is_clients:
                observer.from_client(data, 0.0)
            else:
                observer.from_server(data, 0.0)
        observer.end(0.0)


_CLIENTS = st.sampled_from(
    [query("Q"), parse("P"), parse("N", "n"), bind(), bind("n", "p"), execute(), execute("p"), SYNC]
    + [message(kind, b"") for kind in (b"c", b"f", b"d", b"H", b"X", b"F")]
    + [
        message(b"D", b"S\0"),
        message(b"D", b"Pp\0"),
        message(b"C", b"Sn\0"),
        message(b"C", b"Pp\0"),
        message(b"C", b"x"),
    ]
)
_SERVERS = st.sampled_from(
    [
        READY,
        message(b"Z", b"T"),
        PARSED,
        BOUND,
        message(b"3", b""),
        NO_DATA,
        ROW,
        done("SELECT 1"),
        done("DISCARD ALL"),
        FAILED,
    ]
    + [message(kind, b"") for kind in (b"I", b"s", b"G", b"H", b"W", b"T", b"t", b"c", b"d", b"V", b"N")]
)


@given(st.lists(st.one_of(_CLIENTS.map(lambda it: (True, it)), _SERVERS.map(lambda it: (False, it))), max_size=40))
def test_whatever_order_messages_come_in_every_query_is_told_once(turns: list[tuple[bool, bytes]]) -> None:
    observer, heard, asked = Observer(), [], 0
    try:
        for is_clients, data in turns:
            if is_clients:
                asked += data[:1] == b"Q"
                observer.from_client(data, 0.0)
            else:
                heard += observer.from_server(data, 0.0)
            assert observer._names_bytes == sum(
                statements._cost(name, text)
                for names in (observer._prepared, observer._portals)
                for name, text in names.items()
            )
    except ProtocolViolationError:
        return
    heard += observer.end(0.0)
    # Those that are passed over, too: that the server did so is only its word.
    assert sum(it.kind is Kind.SIMPLE for it in heard) == asked


def test_a_pipeline_may_fail_before_its_sync_was_sent() -> None:
    """What comes until then is passed over, and what comes after it belongs to its answers again."""
    observer = Observer()
    observer.from_client(message(b"P", b"\0bad\0\0\0") + message(b"H", b""), 0.0)
    assert [it.outcome for it in observer.from_server(FAILED, 0.0)] == [Outcome.FAILED]
    observer.from_client(message(b"B", b"\0" * 8) + message(b"E", b"\0" * 5) + message(b"S", b""), 0.0)
    assert [it.outcome for it in observer.from_server(READY, 0.0)] == [Outcome.SKIPPED]
    observer.from_client(message(b"Q", b"next\0"), 0.0)
    (heard,) = observer.from_server(ROW + done("SELECT 1") + READY, 0.0)
    assert (heard.text, heard.outcome, heard.rows) == ("next", Outcome.DONE, 1)


def test_a_server_cannot_have_a_text_forgotten_by_saying_that_something_failed() -> None:
    observer = Observer()
    observer.from_client(message(b"P", b"\0a\0\0\0") + message(b"Q", b"DROP TABLE t\0"), 0.0)
    heard = observer.from_server(FAILED, 0.0)
    assert [(it.text, it.outcome) for it in heard] == [("a", Outcome.FAILED), ("DROP TABLE t", Outcome.SKIPPED)]


def test_a_length_below_its_own_four_bytes_is_refused() -> None:
    with pytest.raises(ProtocolViolationError, match="length"):
        hear((b"Q" + struct.pack(">I", 3), b""))
