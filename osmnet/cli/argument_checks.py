"""Fast checks of arguments, without heavy imports."""

import os
from collections.abc import Iterable
from pathlib import Path

from osmnet.loading.packaged import INDEX_NAME, packaged_weights
from osmnet.utils.checks import check_path


def check_files(paths: Iterable[Path | None]) -> None:
    """Raise `ValueError` if a path is not a file; skip `None`."""
    for path in paths:
        if path is not None and not path.is_file():
            raise ValueError(f"There is no file '{path}'; check the path.")


def check_output_folder(folder: Path) -> None:
    """Raise `ValueError` if a folder cannot be made or written to."""
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ValueError(f"The folder '{folder}' cannot be written to; choose another.")


def check_model(model: str | os.PathLike[str] | None) -> None:
    """Raise `ValueError` if a model is neither a saved pipeline nor a possible Hub id."""
    if model is None:
        packaged_weights()
        return
    path = check_path("The path of the model", os.path.expanduser(model))
    if path.is_dir():
        if not (path / INDEX_NAME).is_file():
            raise ValueError(f"'{model}' has no {INDEX_NAME}, so it is not a saved pipeline; give the folder of one.")
    elif path.exists() or path.is_absolute() or str(model).startswith((".", "~")):
        raise ValueError(f"'{model}' is not a folder; give the folder of a saved pipeline or its id on the Hub.")


def check_dataset(data: str) -> None:
    """Raise `ValueError` if a local folder holds no dataset."""
    if "://" not in data and not Path(data, "dataset.json").is_file():
        raise ValueError(f"'{data}' is not a prepared dataset; make one with `osmnet prepare`.")
