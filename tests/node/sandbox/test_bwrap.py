from dataclasses import replace
from pathlib import Path

from cloister.node.sandbox.bwrap import Sandbox, command, options

SANDBOX = Sandbox(
    root=Path("/engines/root"),
    uid=1_900_000_001,
    writable={"/data": Path("/run/x/data")},
    readable={"/etc/postgresql/postgresql.conf": Path("/run/x/conf")},
    environment={"A": "b"},
)


def test_every_namespace_but_the_user_namespace_is_its_own() -> None:
    words = options(SANDBOX)
    assert {word for word in words if word.startswith("--unshare")} == {
        f"--unshare-{kind}" for kind in ("pid", "net", "ipc", "uts", "cgroup")
    }


def test_the_host_is_there_only_as_the_engine_and_what_is_handed_in() -> None:
    words = options(SANDBOX)
    binds = [tuple(words[i : i + 3]) for i, word in enumerate(words) if word.endswith("bind")]
    assert binds == [
        ("--ro-bind", "/engines/root", "/"),
        ("--dev-bind", "/dev/null", "/dev/null"),
        ("--dev-bind", "/dev/urandom", "/dev/urandom"),
        ("--ro-bind", "/run/x/conf", "/etc/postgresql/postgresql.conf"),
        ("--bind", "/run/x/data", "/data"),
    ]
    assert not {"--proc", "--dev", "--tmpfs", "--mqueue"} & set(words)


def test_a_compute_outlives_whoever_started_it() -> None:
    assert "--die-with-parent" not in options(SANDBOX)


def test_the_program_is_started_by_giving_up_everything() -> None:
    words = command(SANDBOX, ["postgres", "-D", "/data"])
    assert words[-4:] == ["--", "postgres", "-D", "/data"]
    assert {"--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"} <= set(
        words
    )
    assert words[words.index("--reuid") + 1] == words[words.index("--regid") + 1] == "1900000001"


def test_a_program_may_be_given_groups_and_no_others() -> None:
    words = command(replace(SANDBOX, groups=(7, 8)), ["pg_dump"])
    assert words[words.index("--groups") + 1] == "7,8"
    assert "--clear-groups" not in words
