"""`osmnet push`: send a model to the Hub in one commit; a dry run by default."""

from __future__ import annotations

import fnmatch
import re
import sys
from pathlib import Path

from osmnet.cli.argument_checks import check_model
from osmnet.cli.parser import Parser
from osmnet.loading.packaged import packaged_weights

# Files sent besides components and pictures of the card; everything else stays.
SENT = ("README.md", "LICENSE", "NOTICE", "model_index.json", "evaluation.json", "face_landmarker.task")
OF_COMPONENT = ("config.json", "*.safetensors")
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".svg")
NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def choose_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Divide a model's files into those sent and kept.

    Args:
        folder (`Path`): Folder of the model.

    Returns:
        `tuple[list[Path], list[Path]]`: Paths within the folder, sorted, without hidden files.
    """
    from osmnet.evaluation.metrics.sync import JUDGE_FOLDER
    from osmnet.models.identity_network import FOLDER
    from osmnet.pipelines.osm_net.pipeline_osm_net import OSMNetPipeline

    components = {*OSMNetPipeline.components_classes, JUDGE_FOLDER, FOLDER}
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    files = [file for file in files if not any(part.startswith(".") for part in file.parts)]
    card = (folder / "README.md").read_text(encoding="utf-8", errors="replace") if Path("README.md") in files else ""

    def belongs(file: Path) -> bool:
        if file.suffix.lower() in PICTURES:
            return re.search(rf"[(\"'](\./)?{re.escape(file.as_posix())}[)\"'\s]", card) is not None
        if len(file.parts) == 2 and file.parts[0] in components:
            return any(fnmatch.fnmatchcase(file.name, pattern) for pattern in OF_COMPONENT)
        return file.as_posix() in SENT

    sent = [file for file in files if belongs(file)]
    return sent, [file for file in files if file not in sent]


def check_card(folder: Path) -> None:
    """Raise `ValueError` if the model card names no license."""
    from huggingface_hub import metadata_load
    from yaml import YAMLError  # which comes with the Hub client

    card = folder / "README.md"
    try:
        metadata = (metadata_load(card) if card.is_file() else None) or {}
    except (ValueError, YAMLError) as error:
        raise ValueError(f"The head of {card} is not YAML ({str(error).splitlines()[0]}). Fix it.") from error
    if not metadata.get("license"):
        raise ValueError(
            f"{folder} has no model card (README.md) that names a license in its head; start from the one of osmnet's "
            "own weights, and state what your data allow."
        )
    if metadata["license"] == "other" and not (folder / "LICENSE").is_file():
        raise ValueError(f"The model card in {folder} has a licence of its own; put its text beside it, as LICENSE.")


def push(folder: Path, repo_id: str, private: bool = False, branch: str | None = None, message: str = "") -> str:
    """Send a model in one commit.

    Args:
        folder (`Path`): Folder of the model.
        repo_id (`str`): Target, as in "name/model", made if necessary.
        private (`bool`): Make it private. An existing public repository is refused.
        branch (`str`, *optional*): Branch, made if necessary; the main branch by default.
        message (`str`): Commit message.

    Returns:
        `str`: Address of the commit.

    Raises:
        ValueError: If the Hub cannot be reached or refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    from osmnet.loading.hub import HUB_ERRORS, explained

    api = HfApi(library_name="osmnet")
    files, _ = choose_files(folder)
    operations = [CommitOperationAdd(file.as_posix(), str(folder / file)) for file in files]
    try:
        api.create_repo(repo_id, private=private or None, exist_ok=True)
        if private and not api.repo_info(repo_id).private:
            raise ValueError(f"The model {repo_id!r} is on the Hub already and public; make it private there first.")
        if branch:
            api.create_branch(repo_id, branch=branch, exist_ok=True)
        commit = api.create_commit(repo_id, operations, commit_message=message or "Weights of osmnet", revision=branch)
    except HUB_ERRORS as error:
        raise ValueError(explained(error, repo_id, branch)) from error
    return str(commit.commit_url)


def main(argv: list[str] | None = None) -> int:
    """Run `osmnet push`."""
    parser = Parser(
        prog="osmnet push",
        description="Send a model to the Hub. Without --yes, only show what would be sent, without a connection.",
    )
    parser.add_argument("repo", metavar="REPO", help="target, as in name/model; made if necessary")
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="default: the weights inside the package")
    parser.add_argument("--private", action="store_true", help="make it private")
    parser.add_argument("--branch", help="default: main")
    parser.add_argument("--message", default="", help="commit message")
    parser.add_argument("--yes", action="store_true", help="really send it")
    arguments = parser.parse_args(argv)
    if not NAME.fullmatch(arguments.repo):
        raise ValueError(f"'{arguments.repo}' is no id of a model on the Hub; it has the form name/model.")
    folder = arguments.model or packaged_weights()
    if not folder.is_dir():
        raise ValueError(f"There is no folder '{folder}'; give the folder of a saved model.")
    check_model(folder)
    check_card(folder)

    from osmnet.pipelines.osm_net.pipeline_osm_net import OSMNetPipeline

    OSMNetPipeline.from_pretrained(folder)  # refuses a model that does not load
    sent, kept = choose_files(folder)
    sizes = [(folder / file).stat().st_size for file in sent]
    for file, size in zip(sent, sizes, strict=True):
        sys.stdout.write(f"{_size(size):>10}  {file.as_posix()}\n")
    sys.stdout.write(f"{_size(sum(sizes)):>10}  in {len(sent)} files\n")
    if kept:
        sys.stdout.write(f"Stays here: {', '.join(file.as_posix() for file in kept)}\n")
    who = "a private model" if arguments.private else "a model that everybody can see"
    if not arguments.yes:
        sys.stderr.write(f"osmnet: Nothing was sent. With --yes this goes to {arguments.repo}, {who}.\n")
        return 0
    address = push(folder, arguments.repo, arguments.private, arguments.branch, arguments.message)
    sys.stdout.write(f"{address}\n")
    return 0


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
