"""Links, anchors, images, paths and names in the pages exist."""

import ast
import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import pytest

from tests.support.markdown import PAGES, REPOSITORY, anchors, blocks, code_spans, links, name_of, prose

FOLDERS = ("osmnet", "docs", "tests", "examples", "benchmarks", "scripts", "configs", "demo", "weights_card")
PATH = re.compile(rf"(?:{'|'.join(FOLDERS)})/[\w./-]*[\w/]")
every_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


def exists_in_repository(path: str) -> bool:
    """Whether there is such a file or folder; a folder ends with a slash, and a file has a suffix."""
    return (REPOSITORY / path).exists()


@every_page
def test_links_and_anchors_exist(page):
    for target in links(page):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = page if not path else (page.parent / path).resolve()
        assert linked.exists(), f"{target} is not there"
        if anchor:
            assert anchor in anchors(linked), f"{target}: there is no such heading"


@every_page
def test_paths_in_code_spans_exist(page):
    for span in (span for span in code_spans(page) if "NAME" not in span):
        for path in PATH.findall(span):
            assert exists_in_repository(path) or (page.parent / path).exists(), f"{path} is not there"


@every_page
def test_module_names_in_code_spans_exist(page):
    for span in (span for span in code_spans(page) if not span.endswith(".ipynb")):
        for name in re.findall(r"(?<![/\w])osmnet(?:\.\w+)+", span):
            parts = name.split(".")
            module = max(
                (n for n in range(1, len(parts) + 1) if module_file(parts[:n])), default=0
            )  # the longest prefix that is a module
            file = module_file(parts[:module])
            assert file, f"{name}: there is no such module"
            if parts[module:]:
                assert ".".join(parts[module:]) in defined_names(file) | exported_names(file), f"{name} is not defined"


def module_file(parts: list[str]) -> Path | None:
    file = REPOSITORY.joinpath(*parts)
    return next((each for each in (file.with_suffix(".py"), file / "__init__.py") if each.is_file()), None)


@cache
def defined_names(file: Path) -> frozenset[str]:
    """Functions, classes, their members, and variables of a module, as `Class.member`."""
    names: set[str] = set()

    def collect(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.add(prefix + node.name)
                if isinstance(node, ast.ClassDef):
                    collect(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names.update(prefix + n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name))

    collect(ast.parse(file.read_text(encoding="utf-8")).body, "")
    return frozenset(names)


@cache
def exported_names(file: Path) -> frozenset[str]:
    """Names that `osmnet` loads on first use."""
    import osmnet

    return frozenset(osmnet.__all__) if file == REPOSITORY / "osmnet" / "__init__.py" else frozenset()


@every_page
def test_symbols_named_after_a_file_are_defined_in_it(page):
    """`path.py`: `Symbol`, `Class.method` holds, as docs/paper_map.md lists them."""
    for file, symbols in re.findall(r"`(osmnet/[\w/]+\.py)`:((?:,?\s+`[\w.]+`)+)", prose(page)):
        for symbol in re.findall(r"`([\w.]+)`", symbols):
            assert symbol in defined_names(REPOSITORY / file), f"{file} does not define {symbol}"


def test_paper_map_lists_all_equations():
    page = (REPOSITORY / "docs" / "paper_map.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if re.match(r"\| (\d+|–) \|", line)]
    assert {int(n) for n in re.findall(r"^\| (\d+) \|", "\n".join(rows), re.MULTILINE)} == set(range(1, 16))
    for row in rows:
        assert re.search(r"`osmnet/[\w/]+\.py`: `[\w.]+`", row), row


def test_pages_that_code_refers_to_exist():
    """Comments and docstrings name pages by their path from the repository's root."""
    files = [path for folder in ("osmnet", "demo", "tests", "benchmarks", "scripts", "examples", "configs")
             for path in (REPOSITORY / folder).rglob("*") if path.suffix in (".py", ".yaml", ".sh")]  # fmt: skip
    found = 0
    for file in files:
        for path in re.findall(r"\bdocs/[\w/-]+\.\w+", file.read_text(encoding="utf-8")):
            if path.endswith(".md") and "tmp" not in path:
                found += 1
                assert exists_in_repository(path), f"{name_of(file)} refers to {path}"
    assert found >= 10


def test_every_picture_of_the_docs_is_shown():
    shown = {(page.parent / target).resolve() for page in PAGES for target in links(page)}
    for path in (REPOSITORY / "docs").rglob("*"):
        if path.suffix in (".jpg", ".png", ".webp", ".svg"):
            assert path in shown, f"{name_of(path)} is on no page"


def test_first_picture_of_the_readme_moves_and_is_small():
    from PIL import Image

    readme = REPOSITORY / "README.md"
    first = next(target for target in links(readme) if target.endswith((".webp", ".gif", ".jpg", ".png")))
    assert (REPOSITORY / first).stat().st_size <= 1.5e6
    with Image.open(REPOSITORY / first) as picture:
        assert picture.n_frames >= 50
        assert picture.width <= 900


def test_no_page_is_without_a_link_to_it():
    linked = {(page.parent / target.partition("#")[0]).resolve() for page in PAGES for target in links(page)}
    for page in PAGES:
        if page.is_relative_to(REPOSITORY / "docs"):
            assert page in linked, f"no page links to {name_of(page)}"


def test_pages_are_the_tracked_ones():
    """A page in another folder would go unchecked."""
    run = subprocess.run(["git", "ls-files", "*.md"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if run.returncode:
        pytest.skip("not a git checkout")
    assert {REPOSITORY / line for line in run.stdout.splitlines()} <= set(PAGES)


def test_every_page_with_python_is_run():
    tested = (Path(__file__).parent / "test_python_blocks.py").read_text(encoding="utf-8")
    for page in PAGES:
        if blocks(page, "python"):
            assert f'run_blocks("{name_of(page)}"' in tested


def test_architecture_page_and_picture_show_all_packages():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    layers = next(c["layers"] for c in project["tool"]["importlinter"]["contracts"] if c["type"] == "layers")
    packages = [name.strip().removeprefix("osmnet.") for row in layers for name in row.split("|")]
    page = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `osmnet/(\w+)(?:/|\.py)` \|", page, re.MULTILINE) == packages  # and in that order
    picture = (REPOSITORY / "docs" / "architecture.svg").read_text(encoding="utf-8")
    assert [name for name in re.findall(r">(\w+)</text>", picture) if name in packages] == packages
    on_disk = {path.stem for path in (REPOSITORY / "osmnet").iterdir() if path.suffix in ("", ".py")}
    assert set(packages) == on_disk - {"__init__", "__main__", "__pycache__", "py"}
