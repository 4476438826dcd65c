"""Checks of the code as a whole: style, direction of imports, types of the public surface, size of the page."""

import ast
import pydoc
import subprocess
import sys

import pytest

import osmnet

PUBLIC = ["osmnet/__init__.py", "osmnet/structures.py", "osmnet/pipelines", "osmnet/takes/output.py",
          "osmnet/media/audio.py", "osmnet/media/image.py"]  # fmt: skip


def run(repository, *command):
    result = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.integration
def test_imports_point_downwards(repository):
    code = "import sys; from importlinter.cli import lint_imports_command; sys.argv = ['lint-imports'];"
    text = run(repository, sys.executable, "-c", code + " lint_imports_command()")
    assert "0 broken" in text


@pytest.mark.integration
def test_the_public_surface_is_typed_strictly(repository):
    run(repository, sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", *PUBLIC)


@pytest.mark.integration
def test_style(repository):
    run(repository, sys.executable, "-m", "ruff", "check", ".")
    run(repository, sys.executable, "-m", "ruff", "format", "--check", ".")


def test_the_root_of_the_package_is_small(repository):
    files = sorted(path.name for path in (repository / "osmnet").iterdir() if path.is_file())
    assert files == ["__init__.py", "__main__.py", "py.typed", "structures.py"]


def test_the_page_is_thin(repository):
    assert len((repository / "app.py").read_text(encoding="utf-8").splitlines()) <= 250
    for path in [repository / "app.py", *(repository / "demo").glob("*.py"), *(repository / "osmnet").rglob("*.py")]:
        limit = 60 if "osmnet" not in path.relative_to(repository).parts or "serving" in path.parts else 130
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = node.end_lineno - node.lineno + 1
                assert lines <= limit, f"{path}: {node.name} has {lines} lines"


def test_help_fits_on_a_screen():
    text = pydoc.plain(pydoc.render_doc(osmnet))
    assert text.count("\n") < 60 and len(text) < 3000
    assert "OSMNetPipeline" in text and "MotionOptions" in text
    assert {"OSMNetPipeline", "MotionOptions"} <= set(dir(osmnet))  # completion knows them all
