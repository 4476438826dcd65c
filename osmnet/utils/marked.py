"""Tables that commands make anew within a page written by hand: what stands between two marks of a Markdown file.

The marks are comments, which a reader of the page does not see: `<!-- evaluation: made by osmnet evaluate -->` before
the table and `<!-- /evaluation -->` behind it.
"""

import re
from pathlib import Path

from osmnet.utils.files import write_whole


def read_marked(page: Path, name: str) -> str:
    """What stands between the marks of a name.

    Args:
        page (`Path`): A Markdown file.
        name (`str`): Of the marks, e.g. `evaluation`.

    Returns:
        `str`: Without the blank lines around it.

    Raises:
        ValueError: If the file cannot be read, or the two marks are not there once each, in their order.
    """
    begin, end, text = _marked(page, name)
    return text[begin:end].strip()


def write_marked(page: Path, name: str, table: str) -> None:
    """Put a table between the marks of a name; the rest of the page stays as it is.

    Args:
        page (`Path`): A Markdown file.
        name (`str`): Of the marks.
        table (`str`): Markdown.

    Raises:
        ValueError: If the marks are not there, or the file cannot be written; the old one stays then.
    """
    begin, end, text = _marked(page, name)
    write_whole(page, f"{text[:begin]}\n{table.strip()}\n{text[end:]}".encode())


def _marked(page: Path, name: str) -> tuple[int, int, str]:
    """Where the part between the marks begins and ends, and the whole text."""
    try:
        text = page.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"The page '{page}' cannot be read ({error}); check its path.") from None
    opening = list(re.finditer(rf"<!-- {re.escape(name)}:[^>]*-->", text))
    closing = list(re.finditer(rf"<!-- /{re.escape(name)} -->", text))
    if len(opening) != 1 or len(closing) != 1 or opening[0].end() > closing[0].start():
        raise ValueError(
            f"The page '{page}' has no place for this table; put the lines '<!-- {name}: made by osmnet -->' and "
            f"'<!-- /{name} -->' where it belongs, once."
        )
    return opening[0].end(), closing[0].start(), text
