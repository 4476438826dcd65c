"""Model card of a fine-tuned model, for `osmnet push`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData, metadata_load
from yaml import YAMLError

import osmnet
from osmnet.data.dataset import Clip
from osmnet.loading.hub import find_folder
from osmnet.loading.packaged import packaged_weights
from osmnet.media.audio import FPS
from osmnet.training.osm_net import finetune_report
from osmnet.utils.files import write_whole

CARD, TERMS = "README.md", ("LICENSE", "NOTICE")
TAGS = ["talking-head", "audio-driven", "osm-net", "fine-tuned"]
LICENSE_KEYS = ("license", "license_name", "license_link")
MADE = "<!-- made by osmnet train finetune; remove this line to keep your own changes -->"


def find_card(model: str | None) -> Path:
    """Return the folder with a starting model's card and terms, if any.

    Args:
        model (`str`, *optional*): A folder or a Hub id; the weights in the package if not given.
    """
    return packaged_weights() if model is None else find_folder(model, (CARD, *TERMS))


def write_card(
    out: Path,
    report: dict[str, Any],
    model: str | None,
    start: Path,
    training: Sequence[Clip],
    held_out: Sequence[Clip],
) -> None:
    """Write `out/README.md` unless edited by hand, and copy the terms.

    Args:
        out (`Path`): Folder of the fine-tuned model.
        report (`dict`): The content of `finetune.json`.
        model (`str`, *optional*): The starting model, as given on the command line.
        start (`Path`): Folder with its card and terms, from `find_card`.
        training (`Sequence[Clip]`): Clips trained on; counted, not named.
        held_out (`Sequence[Clip]`): Held-out clips; likewise.

    Raises:
        ValueError: If the folder cannot be written.
    """
    card = out / CARD
    for name in TERMS:
        if (start / name).is_file() and (start / name).resolve() != (out / name).resolve():
            write_whole(out / name, (start / name).read_bytes())
    if card.is_file() and MADE not in card.read_text(encoding="utf-8", errors="replace"):
        return
    on_hub = model is not None and not Path(os.path.expanduser(model)).is_dir()
    terms = _license(start)
    data = ModelCardData(
        **terms, library_name="osmnet", pipeline_tag="image-to-video", tags=TAGS, base_model=model if on_hub else None,
    )  # fmt: skip
    text = f"---\n{data.to_yaml()}\n---\n\n{MADE}\n\n{_body(out, report, terms, training, held_out)}"
    write_whole(card, text.encode())


def _license(start: Path) -> dict[str, Any]:
    card = start / CARD
    try:
        metadata = (metadata_load(card) if card.is_file() else None) or {}
    except (ValueError, YAMLError):
        return {}
    return {key: str(metadata[key]) for key in LICENSE_KEYS if metadata.get(key)}


def _body(
    out: Path, report: dict[str, Any], terms: dict[str, str], training: Sequence[Clip], held_out: Sequence[Clip]
) -> str:
    start, dataset = (_base_name(report[key]) for key in ("model", "dataset"))
    minutes = sum(clip.frames for clip in training) / FPS / 60
    people = len({clip.speaker for clip in training})
    licence = terms.get("license_name") or terms.get("license")
    terms_of_use = (
        f"The licence of the starting model goes along with these weights: {licence}"
        f"{' (`LICENSE`)' if (out / 'LICENSE').is_file() else ''}. The section *Training* states what was changed."
        if licence
        else "The starting model names no licence. State one in the head of this card before you publish the weights."
    )
    return f"""# {out.resolve().name}

[OSM-Net](https://arxiv.org/abs/2309.16148), fine-tuned from {start}: a portrait and a recording of speech in, many
talking-head videos out.

```python
from osmnet import OSMNetPipeline

pipe = OSMNetPipeline.from_pretrained("FOLDER_OR_ID")
pipe("portrait.jpg", "speech.wav", output_type="lazy").save("out")
```

## Training

`osmnet train finetune` of osmnet {osmnet.__version__} on the dataset *{dataset}*:
{_count(len(training), "clip")} with speech of {_count(people, "person", "people")}, {minutes:.1f} minutes;
{_count(len(held_out), "clip")} held out. No clip is part of the weights.

{finetune_report.stage_lines(report)}

Components of other stages, and of stages that were not kept, are those of {start}.

## Measured

Before and after, on {_count(len(report["held_out"]), "held-out clip")} (at most {report["seconds"]:g} s of each), by
the protocol of `osmnet evaluate`: the first frame is the portrait, the clip's own sound drives.

{finetune_report.figure_table(report)}

## Limits

- Adapted to the people in the clips; for others the starting model may be better.
- So few held-out clips measure little, and they also decided which stages were kept.
- All limits of the starting model hold: one visible face that looks roughly at the camera; an invented inside of the
  mouth; head motion that fits the rhythm of speech loosely and its meaning not at all.

## Use

{terms_of_use} Depict only people who agreed to it, and state that the videos are synthetic.
"""


def _base_name(where: str) -> str:
    return Path(where).resolve().name if Path(where).exists() else where


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
