"""What whoever runs the page can set, by environment variables."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self


@dataclass(frozen=True)
class Settings:
    """Limits of the page, and the weights it uses. Each has an environment variable: `max_mb` is `OSMNET_MAX_MB`.

    Attributes:
        model (`str`): Folder or Hub id of the weights; empty for those inside the package.
        max_seconds (`int`): Longest speech.
        max_mb (`int`): Largest file that may be uploaded, in megabytes.
        max_takes (`int`): Most takes at a time.
        max_waiting (`int`): How many requests may wait; the next is told to come back later.
        keep_seconds (`int`): How long results stay for download.
        size (`int`): Side of the square around the head, in pixels.
    """

    model: str = ""
    max_seconds: int = 60
    max_mb: int = 20
    max_takes: int = 6
    max_waiting: int = 24
    keep_seconds: int = 3600
    size: int = 512

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Read the settings.

        Args:
            environment (`Mapping[str, str]`): Where to read them; what is not there keeps its default.

        Returns:
            `Settings`: All of them.

        Raises:
            ValueError: If one that is a number is not a whole number above 0.
        """
        found: dict[str, Any] = {}
        for field in fields(cls):
            name = f"OSMNET_{field.name.upper()}"
            text = environment.get(name, "").strip()
            if not text:
                continue
            if field.type is str:
                found[field.name] = text
            elif text.isdecimal() and int(text) > 0:
                found[field.name] = int(text)
            else:
                raise ValueError(f"The environment variable {name} must be a whole number above 0, not '{text}'.")
        return cls(**found)
