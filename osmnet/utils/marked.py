"""Generated tables in Markdown, between `<!-- name: … -->` and `<!-- /name -->`."""

import re
from pathlib import Path

from osmnet.utils.checks import reason
from osmnet.utils.files import write_whole


def read_marked(page: Path, name: str) -> str:
    """Read the table of a name.

    Raises:
        ValueError: If the file cannot be read, or lacks or repeats a mark.
    """
    begin, end, text = _marked(page, name)
    return text[begin:end].strip()


def write_marked(page: Path, name: str, table: str) -> None:
    """Replace the table of a name.

    Raises:
        ValueError: If the marks are missing, or the file cannot be written; the old one stays then.
    """
    begin, end, text = _marked(page, name)
    write_whole(page, f"{text[:begin]}\n{table.strip()}\n{text[end:]}".encode())


def _marked(page: Path, name: str) -> tuple[int, int, str]:
    try:
        text = page.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"The page '{page}' cannot be read ({reason(error)}); check its path.") from None
    opening = list(re.finditer(rf"<!-- {re.escape(name)}:[^>]*-->", text))
    closing = list(re.finditer(rf"<!-- /{re.escape(name)} -->", text))
    if len(opening) != 1 or len(closing) != 1 or opening[0].end() > closing[0].start():
        raise ValueError(
            f"The page '{page}' has no place for this table; put the lines '<!-- {name}: made by osmnet -->' and "
            f"'<!-- /{name} -->' where it belongs, once."
        )
    return opening[0].end(), closing[0].start(), text
