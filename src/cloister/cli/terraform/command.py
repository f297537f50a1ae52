"""`terraform-provider-cloister`: the program that Terraform starts. It is not for people to type."""

import asyncio
import logging
import os
import sys
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Final

from cloister.cli.failure import CommandError
from cloister.cli.terraform.messages import CALLS
from cloister.cli.terraform.plugin import serve
from cloister.cli.terraform.provider import Provider
from cloister.cli.terraform.rpc import INVALID, UNIMPLEMENTED, Answer, RefusedError
from cloister.protocol.protobuf import ProtobufError

WORKERS: Final = 10
# As many things as Terraform works on at once, unless it is told otherwise.


def main() -> None:
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    try:
        asyncio.run(_run())
    except CommandError as error:
        print(f"terraform-provider-cloister: {error}", file=sys.stderr)  # noqa: T201 - to whoever typed it
        sys.exit(1)


async def _run() -> None:
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="call") as workers:
        await serve(os.environ, answering(Provider(), workers))


def answering(provider: Provider, workers: Executor) -> Answer:
    async def answer(call: str, message: bytes) -> bytes:
        if call not in CALLS:
            raise RefusedError(UNIMPLEMENTED, f"{call} is not served")
        try:
            return await asyncio.get_running_loop().run_in_executor(workers, provider.answer, call, message)
        except ProtobufError as error:
            raise RefusedError(INVALID, str(error)) from error

    return answer


if __name__ == "__main__":
    main()
