"""Puts `guard.so` into the package when that is built: a wheel gets one for each PostgreSQL whose headers were there, an
editable installation leaves it in the checkout. The packaged engine is among the build's requirements, for its headers.
"""

import importlib.util
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class GuardBuildHook(BuildHookInterface):  # type: ignore[misc]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        build = _build_module(Path(self.root) / "guard" / "build.py")
        found = build.headers()
        if not found:
            raise build.BuildError(
                f"no headers of PostgreSQL {build.MAJOR_MIN} or later: without guard.so no engine is offered"
            )
        for each in found:
            library = build.build(each)
            if version != "editable":
                build_data["force_include"][str(library)] = f"cloister/_guard/{each.major}/guard.so"
        if version != "editable":
            # Machine code, but nothing of Python's.
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{platform}"


def _build_module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("guard_build", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
