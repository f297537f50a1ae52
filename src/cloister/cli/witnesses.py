"""What `cloister audit verify --witness` asks of a bucket: every checkpoint that was ever put there."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cloister.base.settings import Settings
from cloister.cli.failure import CommandError

if TYPE_CHECKING:
    from cloister.protocol.merkle.notes import VerifierKey
    from cloister.trust.audit.targets import Witness
    from cloister.trust.audit.witness import Seen


async def witnesses_of(
    settings: Settings, names: Sequence[str], key: "VerifierKey | None"
) -> "list[tuple[Witness, list[Seen]]]":
    """What each of these has, of which the newest is signed by the key and locked."""
    from cloister.trust.audit import targets, witness  # noqa: PLC0415 - heavy

    known = {
        each.name: each for each in targets.read(settings.paths.audit_exports) if isinstance(each, targets.Witness)
    }
    found = []
    for name in names:
        if name not in known:
            raise CommandError(f"there is no witness {name!r}: `cloister audit export-to list` names them")
        if key is None:
            raise CommandError("nothing was signed here: name the --key of its checkpoints")
        try:
            some = await witness.seen(known[name].store, known[name].prefix, key.name)
            if not some:
                raise CommandError(f"{known[name].place} has no checkpoint")
            await witness.confirm(known[name].store, some[-1], key)
        except OSError as error:
            raise CommandError(f"{known[name].place}: {error}") from error
        found.append((known[name], some))
    return found


async def confirm(held: "list[tuple[Witness, list[Seen]]]", size: int, key: "VerifierKey | None") -> None:
    """That a checkpoint to which the log does not fit is signed: else it is somebody's invention, and is named as that."""
    from cloister.trust.audit import witness  # noqa: PLC0415 - heavy

    for target, some in held:
        for each in some:
            if each.checkpoint.size == size:
                assert key is not None
                await witness.confirm(target.store, each, key)
