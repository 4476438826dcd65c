"""`Settings` of a service."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self


@dataclass(frozen=True)
class Settings:
    """Limits and weights; each is read from a variable such as `OSMNET_MAX_MB`.

    Attributes:
        model (`str`): Folder or Hub id of the weights; empty for those inside the package.
        size (`int`): Side of the square around the head, pixels.
        max_seconds (`int`): Longest speech, s.
        max_megapixels (`int`): Largest portrait, millions of pixels; checked before it is decoded.
        max_takes (`int`): Most takes in a request.
        max_mb (`int`): Largest upload, MB.
        max_waiting (`int`): Longest queue; further requests are refused.
        max_disk_mb (`int`): Most disk space for uploads and results together, MB.
        max_cache_mb (`int`): Most memory for encoded portraits and speech, MB.
        keep_seconds (`int`): Lifetime of uploads, results and encoded inputs, s.
        max_decoded_seconds (`int`): Length of a recording after which decoding stops, s.
        max_decode_seconds (`int`): Longest time that decoding a file may take, s.
        max_decode_mb (`int`): Most memory for decoding a file, MB.
        max_request_seconds (`int`): Longest time that rendering a request may take, s.
        max_request_kb (`int`): Largest request without its files, KB.
        max_session_requests (`int`): Most requests of a session that wait or run.
        max_address_requests (`int`): Most requests of an IP address that wait or run.
        max_address_connections (`int`): Most open requests of an IP address for pages, files and progress.
        max_address_mb (`int`): Most disk space for uploads and results of an IP address within `keep_seconds`, MB.
        proxies (`int`): Reverse proxies in front of the page that append to `X-Forwarded-For`; without any, that
            header is not believed. 1 by default on a Hugging Face Space.
    """

    model: str = ""
    size: int = 512
    max_seconds: int = 60
    max_megapixels: int = 50
    max_takes: int = 6
    max_mb: int = 20
    max_waiting: int = 48
    max_disk_mb: int = 4000
    max_cache_mb: int = 256
    keep_seconds: int = 3600
    max_decoded_seconds: int = 1800
    max_decode_seconds: int = 15
    max_decode_mb: int = 1024
    max_request_seconds: int = 900
    max_request_kb: int = 1024
    max_session_requests: int = 6
    max_address_requests: int = 12
    max_address_connections: int = 128
    max_address_mb: int = 1000
    proxies: int = 0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Read the settings.

        Args:
            environment (`Mapping[str, str]`): Environment variables; missing ones keep their defaults.

        Returns:
            `Settings`: The settings.

        Raises:
            ValueError: If a number is not a whole number above 0.
        """
        found: dict[str, Any] = {"proxies": 1} if environment.get("SPACE_ID") else {}
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
