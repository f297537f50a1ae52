"""Rules of the house that a linter does not know. Each finds its offenders by reading the source."""

import ast
import re
from pathlib import Path

from tests.house.source import ROOT, SOURCE, calls, dotted, nodes, place, python_files, tree

EVERYWHERE = ("src", "tests", "benchmarks")

RUNS_SQL = {"execute", "executemany", "fetch", "fetchrow", "fetchval", "fetch_row", "fetch_value", "cursor", "prepare"}
SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}
MOMENT_S = 0.05
LOGS = {"debug", "info", "warning", "error", "exception", "critical", "log"}


QUOTED_ELSEWHERE = {
    "src/cloister/control/roles/catalog.py": "the server's own format() quotes every name with %I; the template is a literal",
    "src/cloister/base/database/embedded.py": "the role is one of two constants",
}
"""Where SQL that takes no parameters is composed, one place a file, each with the reason why that is safe."""


def test_no_command_goes_through_a_shell() -> None:
    offenders = [
        place(path, call)
        for path in python_files(*EVERYWHERE)
        for call, name in calls(path)
        if name in SHELLS
        or name.endswith("create_subprocess_shell")
        or any(keyword.arg == "shell" and not _is(keyword.value, value=False) for keyword in call.keywords)
    ]
    assert offenders == []


def test_no_program_inherits_what_it_is_not_given() -> None:
    """Other threads have keys of tenants open. `subprocess` closes in the child what it does not pass on, and the node's
    `children.spawn` does; Python's own posix_spawn cannot."""
    offenders = [
        place(path, call)
        for path in python_files("src")
        for call, name in calls(path)
        if name in ("os.posix_spawn", "os.posix_spawnp")
        or any(keyword.arg == "close_fds" and not _is(keyword.value, value=True) for keyword in call.keywords)
    ]
    assert offenders == []


def test_no_sql_is_put_together_from_strings() -> None:
    """Query texts are literals; values travel as parameters. What PostgreSQL takes no parameter for (CREATE ROLE …) is
    composed where names are quoted, and passed on as a variable that says so."""
    offenders = [
        place(path, call)
        for path in python_files("src")
        for call, name in calls(path)
        if name.rpartition(".")[2] in RUNS_SQL and call.args and _is_built(call.args[0])
    ]
    assert sorted(each.partition(":")[0] for each in offenders) == sorted(QUOTED_ELSEWHERE)


def test_no_task_without_a_parent() -> None:
    """The result of create_task is kept, unless a TaskGroup keeps it: a dropped task may vanish in mid-flight, and its
    exception with it."""
    offenders = []
    for path in python_files("src"):
        groups = _task_groups(tree(path))
        offenders += [
            place(path, node)
            for node in nodes(path)
            if isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Call)
            and (name := dotted(node.value.func)).rpartition(".")[2] in ("create_task", "ensure_future")
            and name.rpartition(".")[0] not in groups
        ]
    assert offenders == []


def test_no_secret_in_a_log_line() -> None:
    offenders = [
        place(path, call)
        for path in python_files("src")
        for call, name in calls(path)
        if name.rpartition(".")[2] in LOGS and name.partition(".")[0] in ("log", "logger", "logging", "_log")
        for inner in ast.walk(call)
        if isinstance(inner, ast.Attribute) and inner.attr == "reveal"
    ]
    assert offenders == []


def test_no_secret_in_a_message_of_an_exception() -> None:
    offenders = [
        place(path, node)
        for path in python_files("src")
        for node in nodes(path)
        if isinstance(node, ast.Raise) and node.exc is not None
        for inner in ast.walk(node.exc)
        if isinstance(inner, ast.Attribute) and inner.attr == "reveal"
    ]
    assert offenders == []


def test_every_file_introduces_itself() -> None:
    offenders = [
        str(path.relative_to(ROOT))
        for path in python_files("src")
        if path.stat().st_size and not ast.get_docstring(tree(path))
    ]
    assert offenders == []


def test_nothing_is_promised_in_a_comment() -> None:
    """What is left to do stands in an issue, where somebody looks for it."""
    word = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK)\b")
    files = [*python_files(*EVERYWHERE), *SOURCE.rglob("*.sql"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")]
    assert [str(path.relative_to(ROOT)) for path in files if word.search(path.read_text())] == []


def test_no_test_only_passes() -> None:
    """A test states something: it asserts, or expects an exception, or calls a helper that does."""
    offenders = []
    for path in python_files("tests"):
        for node in nodes(path):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                body = [each for each in node.body if not _is_docstring(each)]
                if not body or all(isinstance(each, ast.Pass) for each in body):
                    offenders.append(place(path, node))
    assert offenders == []


def test_tests_do_not_sleep_where_they_could_wait() -> None:
    """A poll sleeps inside a loop with a deadline, and a moment may show that nothing happens meanwhile. A longer pause is
    a guess at how long something takes, unless its line says what it waits out: a time that the code itself keeps."""
    offenders = []
    for path in python_files("tests"):
        lines = path.read_text().splitlines()
        looping = {
            id(inner)
            for node in nodes(path)
            if isinstance(node, ast.While | ast.For | ast.AsyncFor)
            for inner in ast.walk(node)
        }
        offenders += [
            place(path, call)
            for call, name in calls(path)
            if name in ("time.sleep", "asyncio.sleep")
            and id(call) not in looping
            and not _is_moment(call.args[0])
            and "  # " not in lines[call.lineno - 1]
        ]
    assert offenders == []


def test_every_action_is_recorded_and_every_permission_checked() -> None:
    """A word in an enum that nobody uses is a control that is not there."""
    for enum, file in (("Action", "trust/audit/actions.py"), ("Permission", "trust/access/permissions.py")):
        members = {
            target.id
            for node in nodes(SOURCE / file)
            if isinstance(node, ast.ClassDef) and node.name == enum
            for statement in node.body
            if isinstance(statement, ast.Assign)
            for target in statement.targets
            if isinstance(target, ast.Name)
        }
        used = {
            node.attr
            for path in python_files("src")
            for node in nodes(path)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == enum
        }
        # The gateway sends its actions by their text, because it does not import the audit log.
        texts = {
            node.value
            for path in python_files("src")
            if path != SOURCE / file
            for node in nodes(path)
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        assert sorted(name for name in members - used if _spelled(name) not in texts) == [], enum


def test_no_name_of_a_registry_or_a_private_path() -> None:
    """Lock files name packages, not places; and nothing here depends on one person's machine."""
    hosts = re.compile("pypi" r"\.org|python" r"hosted\.|registry\.npm" r"js|deb\.debian" r"\.org|/work" "/")
    files = [
        path for path in _tracked() if path.suffix in (".py", ".md", ".toml", ".lock", ".sql", ".yaml", ".cedar", "")
    ]
    assert [str(path.relative_to(ROOT)) for path in files if hosts.search(path.read_text(errors="replace"))] == []


def _tracked() -> list[Path]:
    folders = ("src", "tests", "benchmarks", "docs", "scripts", ".ci")
    inside = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    return [path for path in (*inside, *ROOT.glob("*.md"), *ROOT.glob("*.toml"), *ROOT.glob("*.lock"))
            if not {"__pycache__", "node_modules"} & set(path.parts)]  # fmt: skip


def _is(node: ast.expr, *, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def _is_moment(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float) and node.value <= MOMENT_S


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_built(node: ast.expr) -> bool:
    match node:
        case ast.JoinedStr():
            return any(isinstance(part, ast.FormattedValue) and not _is_constant(part.value) for part in node.values)
        case ast.BinOp(op=ast.Add() | ast.Mod()):
            return True
        case ast.Call(func=ast.Attribute(attr="format" | "join" | "replace")):
            return True
        case _:
            return False


def _is_constant(node: ast.expr) -> bool:
    """A constant of the code, by the way it is written."""
    return dotted(node).rpartition(".")[2].isupper()


def _task_groups(module: ast.Module) -> set[str]:
    """Names that are TaskGroups here: bound by `async with`, assigned, or annotated."""
    names = set()
    for node in ast.walk(module):
        if isinstance(node, ast.AsyncWith):
            for item in node.items:
                if (
                    isinstance(item.context_expr, ast.Call)
                    and dotted(item.context_expr.func).endswith("TaskGroup")
                    and item.optional_vars is not None
                ):
                    names.add(dotted(item.optional_vars))
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value and "TaskGroup" in ast.unparse(node):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {dotted(target) for target in targets}
        elif isinstance(node, ast.arg) and node.annotation and "TaskGroup" in ast.unparse(node.annotation):
            names.add(node.arg)
    return names


def _spelled(member: str) -> str:
    """CONNECTION_OPENED → connection.opened"""
    return member.lower().replace("_", ".", 1)
