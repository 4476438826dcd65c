"""Shell commands in the pages are what the real parsers, scripts and extras take."""

import ast
import re
import shutil
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from osmnet.cli.parser import Parser
from tests.support.markdown import PAGES, REPOSITORY, code_spans, commands, name_of

# Programs that belong to others, of which pages show a use or two.
OTHERS = {"ruff", "lint-imports", "hf", "flite", "espeak-ng", "ffmpeg", "jupyter", "tensorboard", "ray", "export"}
every_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


class Parsed(BaseException):
    """Ends a command once its arguments are parsed; no handler of exceptions takes it."""


@pytest.fixture
def parse_only(monkeypatch, tmp_path):
    """Run commands in an empty folder, up to the point at which arguments and settings are read."""
    parse = Parser.parse_args

    def parse_args(self, args=None, namespace=None):
        arguments = parse(self, args, namespace)
        if self.prog.startswith("osmnet train"):  # whose settings are read next
            return arguments
        raise Parsed

    def open_dataset(*arguments, **options):
        raise Parsed

    monkeypatch.setattr(Parser, "parse_args", parse_args)
    monkeypatch.setattr("osmnet.data.dataset.Dataset.open", open_dataset)
    monkeypatch.setattr("osmnet.training.osm_net.export.export", open_dataset)
    monkeypatch.setattr("osmnet.utils.threads.set_threads", lambda count: None)
    monkeypatch.chdir(tmp_path)
    for name, original in (("mine.yaml", "default"), ("my.yaml", "finetune")):  # copies that a reader makes
        shutil.copy(REPOSITORY / "configs" / f"{original}.yaml", name)
    shutil.copytree(REPOSITORY / "docs", "docs", ignore=lambda folder, names: [n for n in names if "." not in n])


def run_osmnet(words: list[str]) -> None:
    """Run `osmnet WORDS` to where it has read its arguments; a wrong one ends with status 2."""
    command, *rest = words
    with pytest.raises((Parsed, SystemExit)) as stop:
        import_module(f"osmnet.cli.{command}").main(rest)
    if isinstance(stop.value, SystemExit):
        assert stop.value.code == 0, " ".join(["osmnet", *words])


def check_osmnet(words: list[str]) -> None:
    run_osmnet(words)
    if words[0] == "generate":
        for path in (word for word in words if word.startswith("examples/")):
            assert (REPOSITORY / path).is_file(), path


def check_python(words: list[str]) -> None:
    """`python FILE …`: the file is there and knows the options. `python -m venv` and the like are Python's own."""
    if words[0] == "-m":
        return
    script = REPOSITORY / words[0]
    assert script.is_file(), f"{words[0]} is not there"
    strings = {n.value for n in ast.walk(ast.parse(script.read_text(encoding="utf-8"))) if isinstance(n, ast.Constant)}
    for option in (word.partition("=")[0] for word in words[1:] if word.startswith("--")):
        assert option in strings, f"{words[0]} has no option {option}"


def check_pip(words: list[str]) -> None:
    assert words[0] == "install"
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extra in re.findall(r"\[([\w,]+)\]", " ".join(words)):
        assert set(extra.split(",")) <= set(extras["optional-dependencies"]), extra


def check_pytest(words: list[str]) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    markers = {text.partition(":")[0] for text in project["tool"]["pytest"]["ini_options"]["markers"]}
    for word in words:
        assert not word.startswith("tests/") or (REPOSITORY / word).exists(), word
    for expression in (after for before, after in zip(words, words[1:], strict=False) if before == "-m"):
        assert set(re.findall(r"\w+", expression)) - {"not", "and", "or"} <= markers, expression


def check_accelerate(words: list[str]) -> None:
    """`accelerate launch … -m MODULE …`: a module of ours that takes what follows."""
    assert words[0] == "launch"
    module, *rest = words[words.index("-m") + 1 :]
    assert module == "osmnet.training.train"
    file = REPOSITORY.joinpath(*module.split(".")).with_suffix(".py")
    assert "main" in file.read_text(encoding="utf-8")
    run_osmnet(["train", *rest])


def check_apt(words: list[str]) -> None:
    listed = set((REPOSITORY / "packages.txt").read_text(encoding="utf-8").split())
    assert words[0] == "install" and {word for word in words[1:] if word[0] != "-"} <= listed


CHECKS = {
    "osmnet": check_osmnet,
    "python": check_python,
    "pip": check_pip,
    "pytest": check_pytest,
    "accelerate": check_accelerate,
    "apt-get": check_apt,
}


@every_page
def test_shell_commands_are_understood(page, parse_only):
    for line, (program, *words) in commands(page):
        name = Path(program).name
        if program == "${PYTHON:-python3}" or name in OTHERS:
            continue
        if program.startswith("examples/"):
            assert (REPOSITORY / program).is_file()
            continue
        assert name in CHECKS, f"{name_of(page)}:{line}: no check for `{program}`"
        try:
            CHECKS[name](words)
        except BaseException as error:
            error.add_note(f"{name_of(page)}:{line}: {program} {' '.join(words)}")
            raise


@every_page
def test_options_in_the_text_exist(page, parse_only, capsys):
    """`osmnet COMMAND … --option` in a sentence may leave out what the command needs, but names options it has."""
    for words in (span.split() for span in code_spans(page) if span.startswith("osmnet ")):
        if len(words) < 2 or not re.fullmatch(r"[a-z]+", words[1]):
            continue
        finetune = words[1:3] == ["train", "finetune"]
        command = ["train", "finetune"] if finetune else [words[1]]
        with pytest.raises(SystemExit):
            import_module(f"osmnet.cli.{command[0]}").main([*command[1:], "--help"])
        known = capsys.readouterr().out
        for option in (word for word in words if re.match(r"--\w", word)):
            assert re.search(rf"(?<![\w-]){option}(?![\w-])", known), f"`{' '.join(words)}`: no option {option}"


def test_table_of_options_in_the_readme_names_options_of_generate(capsys):
    from osmnet.cli.generate import build_parser

    rows = re.findall(r"^\| (`--.*?) \| ", (REPOSITORY / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) >= 10
    known = build_parser().format_help()
    for option in re.findall(r"--[\w-]+", " ".join(rows)):
        assert re.search(rf"(?<![\w-]){option}(?![\w-])", known), option


def test_usage_in_the_scripts_own_docstrings_names_files_that_exist():
    for folder in ("examples", "benchmarks", "scripts"):
        for script in (REPOSITORY / folder).glob("*.py"):
            described = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""
            for path in re.findall(r"python ([\w/]+\.py)", described):
                assert (REPOSITORY / path).is_file(), f"{name_of(script)}: {path}"
                assert path == name_of(script)
