"""What a step machine is. The engine that runs one is `engine.py`.

The rules that make a crash at any point harmless:

1. Ids, names and random choices are fixed in `input` before step one.
2. Look, then act: a step first asks whether its effect is there already. Every step runs at least once, perhaps twice.
3. A step ends by saying what comes next: `Go`, `Wait`, `Done` or `Fail`.
4. A step runs with no transaction open. Rows it wants to change go into `apply`, which the engine runs in the
   transaction that commits the step, guarded by the lease: if another worker took over, nothing of it happens.
5. Undo runs backwards, is idempotent, and "already gone" is success.
6. `may_retry` errors are retried with growing pauses until the deadline; others undo the operation.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Generic, TypeVar

from cloister.base.database import Transaction
from cloister.base.errors import CloisterError
from cloister.control.operations.model import Operation

W = TypeVar("W")

Apply = Callable[[Transaction], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Go:
    """The step is done: keep these facts, change these rows, go to the next step (after the last: finished)."""

    facts: dict[str, Any] = field(default_factory=dict)
    apply: Apply | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """Not yet: run this same step again in a while, or when somebody signals the operation."""

    seconds: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing more to do: finish now, skipping the remaining steps."""

    facts: dict[str, Any] = field(default_factory=dict)
    apply: Apply | None = None


@dataclass(frozen=True, slots=True)
class Fail:
    """It cannot be: undo what was done."""

    error: CloisterError


Outcome = Go | Wait | Done | Fail


@dataclass(frozen=True, slots=True)
class Step(Generic[W]):
    name: str
    run: Callable[[Operation, W], Awaitable[Outcome]]
    undo: Callable[[Operation, W], Awaitable[Apply | None]] | None = None
    """Takes back the step's effect; may return rows to change in the transaction that commits the undo."""


@dataclass(frozen=True, slots=True)
class Machine(Generic[W]):
    """A list of steps that reads like the operation's documentation. `W` is the narrow world its steps may touch."""

    name: str
    action: str
    """Neon's OperationAction, as clients see it."""
    deadline: timedelta
    steps: tuple[Step[W], ...]
    has_rollback: bool = True
    """False: on a final error the operation stays in `error` for a person, instead of being undone."""
    is_heavy: bool = False
    """It keeps a core busy. Few run at a time, in the order in which they became due, and nothing else waits behind them."""
