"""Reads the repository's Markdown pages: code blocks, shell commands, links, headings, code spans."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path
    for path in (
        REPOSITORY / "README.md",
        REPOSITORY / "SECURITY.md",
        *(REPOSITORY / "docs").rglob("*.md"),
        *(REPOSITORY / folder / "README.md" for folder in ("examples", "benchmarks", "weights_card")),
        *(REPOSITORY / "osmnet").rglob("*.md"),
        *(REPOSITORY / "demo").rglob("*.md"),
    )
)
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced code block.

    Attributes:
        language (`str`): As written behind the fence.
        text (`str`): Its lines.
        line (`int`): Line of the page at which the fence is.
    """

    language: str
    text: str
    line: int


def name_of(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


def blocks(page: Path, language: str) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = (Block(m[2], m[3], text[: m.start()].count("\n") + 1) for m in FENCE.finditer(text))
    return [block for block in found if block.language == language]


def prose(page: Path) -> str:
    """The page without its code blocks and its front matter."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    return re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)


def code_spans(page: Path) -> list[str]:
    return [re.sub(r"\s+", " ", span) for span in re.findall(r"`([^`]+)`", prose(page))]


def links(page: Path) -> list[str]:
    """Targets of links and images."""
    return re.findall(r"\]\(([^()\s]+)\)", re.sub(r"`[^`]*`", "", prose(page)))


def anchors(page: Path) -> set[str]:
    """Anchors of the headings, as GitHub makes them."""
    titles = re.findall(r"^#+ +(.+)$", prose(page), re.MULTILINE)
    slugs = (re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", title).lower()).replace(" ", "-") for title in titles)
    return set(slugs)


def commands(page: Path) -> Iterator[tuple[int, list[str]]]:
    """Shell commands in the page's bash blocks: line, and words without variables set and comments."""
    for block in blocks(page, "bash"):
        joined = block.text.replace("\\\n", "")
        for number, line in enumerate(joined.splitlines(), block.line + 1):
            # A parenthesis, pipe or loop would need a shell: the pages have none.
            for command in line.split(" && "):
                words = shlex.split(command, comments=True)
                while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                    words.pop(0)
                if words:
                    yield number, words
