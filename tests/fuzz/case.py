"""`Case`: one input of the library, as a JSON file that reproduces it."""

from __future__ import annotations

import base64
import json
import shutil
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COPIED_BYTES = 2**18  # larger files of a base are linked


@dataclass(frozen=True)
class Case:
    """One call and the files that it reads.

    Attributes:
        kind (`str`): Kind of input, a module of `tests.fuzz.kinds`.
        target (`str`): Function of that module to call.
        files (`dict`): Contents by path below the folder of the case; `None` removes a file of the base.
        base (`str`): Folder made by `tests.fuzz.seeds` that is copied first.
        arguments (`dict`): Python expressions by name; `folder` is the folder of the case.
        story (`str`): What went wrong, for a case of the corpus.
    """

    kind: str
    target: str
    files: dict[str, bytes | None] = field(default_factory=dict)
    base: str = ""
    arguments: dict[str, str] = field(default_factory=dict)
    story: str = ""

    def dump(self, **about: Any) -> str:
        """Format as JSON, with further entries that `load` ignores."""
        files = {
            name: None if content is None else base64.b64encode(zlib.compress(content, 9)).decode()
            for name, content in self.files.items()
        }
        entries = {"story": self.story, **about, "kind": self.kind, "target": self.target, "base": self.base}
        return json.dumps({**entries, "arguments": self.arguments, "files": files}, indent=1) + "\n"

    @classmethod
    def load(cls, text: str) -> Case:
        """Read what `dump` wrote."""
        content = json.loads(text)
        files = {
            name: None if packed is None else zlib.decompress(base64.b64decode(packed))
            for name, packed in content["files"].items()
        }
        return cls(content["kind"], content["target"], files, content["base"], content["arguments"], content["story"])

    def lay_out(self, folder: Path, seeds: Path) -> None:
        """Write the files into `folder`."""
        if self.base:
            for path in sorted((seeds / self.base).rglob("*")):
                copy = folder / path.relative_to(seeds / self.base)
                if path.is_dir():
                    copy.mkdir()
                elif path.stat().st_size > COPIED_BYTES:
                    copy.symlink_to(path)
                else:
                    shutil.copy(path, copy)
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            if content is not None:
                path.write_bytes(content)
