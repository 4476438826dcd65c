"""`osmnet push`: send a model to the Hub, in one commit; by default only show what would be sent."""

from __future__ import annotations

import fnmatch
import re
import sys
from pathlib import Path

from osmnet.cli.parser import Parser

# What belongs to a model beside its components and the pictures of its card; all else in its folder stays here.
SENT = ("README.md", "LICENSE", "NOTICE", "model_index.json", "evaluation.json", "face_landmarker.task")
OF_COMPONENT = ("config.json", "*.safetensors")
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".svg")
NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def choose_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Divide the files of a folder into those that are sent and those that stay.

    Args:
        folder (`Path`): Of a model.

    Returns:
        `tuple[list[Path], list[Path]]`: Paths within the folder, sorted; neither has what is hidden.
    """
    from osmnet.evaluation.metrics.sync import JUDGE_FOLDER
    from osmnet.pipelines.osm_net.pipeline_osm_net import OSMNetPipeline

    components = {*OSMNetPipeline.components_classes, JUDGE_FOLDER}
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


def check_model(folder: Path) -> None:
    """Refuse a folder whose model does not load, or that has no model card with a licence.

    Raises:
        ValueError: With one sentence on what is wrong.
    """
    from huggingface_hub import metadata_load
    from yaml import YAMLError  # which comes with the Hub client

    from osmnet.pipelines.osm_net.pipeline_osm_net import OSMNetPipeline

    OSMNetPipeline.from_pretrained(folder)
    card = folder / "README.md"
    try:
        metadata = (metadata_load(card) if card.is_file() else None) or {}
    except (ValueError, YAMLError) as error:
        raise ValueError(f"The head of {card} is not YAML ({str(error).splitlines()[0]}); mend it.") from error
    if not metadata.get("license"):
        raise ValueError(
            f"{folder} has no model card (README.md) that names a license in its head; take the one of osmnet's own "
            "weights for a pattern, and state what your data allow."
        )
    if metadata["license"] == "other" and not (folder / "LICENSE").is_file():
        raise ValueError(f"The model card in {folder} has a licence of its own; put its text beside it, as LICENSE.")


def push(folder: Path, repo_id: str, private: bool = False, branch: str | None = None, message: str = "") -> str:
    """Send a model in one commit: whoever downloads it gets all of it or what was there before.

    Args:
        folder (`Path`): Of a model.
        repo_id (`str`): Where to, as in "name/model"; made if it is not there.
        private (`bool`): Nobody else may see it. A repository that is there already and is public is refused.
        branch (`str`, *optional*): Made if it is not there; the main branch if not given.
        message (`str`): Of the commit.

    Returns:
        `str`: Address of the commit.

    Raises:
        ValueError: If the Hub cannot be reached or refuses; one sentence says why.
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
    """Run `osmnet push`.

    Args:
        argv (`list[str]`, *optional*): The arguments; those of the process by default.

    Returns:
        `int`: 0.
    """
    parser = Parser(
        prog="osmnet push",
        description="Send a model to the Hub. Without --yes nothing is sent and no connection made; what would be "
        "sent is shown.",
    )
    parser.add_argument("repo", metavar="REPO", help="where to, as in name/model; made if it is not there")
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="default: the weights inside the package")
    parser.add_argument("--private", action="store_true", help="nobody else may see it")
    parser.add_argument("--branch", help="default: main")
    parser.add_argument("--message", default="", help="of the commit")
    parser.add_argument("--yes", action="store_true", help="really send it")
    arguments = parser.parse_args(argv)
    if not NAME.fullmatch(arguments.repo):
        raise ValueError(f"'{arguments.repo}' is no id of a model on the Hub; it has the form name/model.")
    from osmnet.loading.packaged import packaged_weights

    folder = arguments.model or packaged_weights()
    if not folder.is_dir():
        raise ValueError(f"There is no folder '{folder}'; give the folder of a saved model.")
    check_model(folder)
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
