"""Stage `export`: a pipeline folder from trained components."""

from pathlib import Path

import torch

from osmnet.pipelines.osm_net.pipeline_osm_net import OSMNetPipeline
from osmnet.training.osm_net.trained_components import load_components


def export(model: Path, landmarker: Path, out: Path) -> dict[str, int]:
    """Assemble a pipeline in full and half precision.

    Args:
        model (`Path`): Folder with a folder for each component.
        landmarker (`Path`): The `.task` bundle.
        out (`Path`): The folder to write.

    Returns:
        `dict[str, int]`: Size of each file in bytes.

    Raises:
        ValueError: If a component is missing (the message names its stage) or damaged, or `out` cannot be written.
    """
    names = [
        name
        for name in OSMNetPipeline.components_classes
        if name not in OSMNetPipeline.optional_components or (model / name).is_dir()
    ]
    components = load_components(model, names)
    if not landmarker.is_file():
        raise ValueError(f"No face landmarker at '{landmarker}'; build it with scripts/build_landmarker.py.")
    pipe = OSMNetPipeline(**components, face_landmarker=landmarker)
    pipe.save_pretrained(out)
    pipe.to(dtype=torch.float16).save_pretrained(out, variant="fp16")
    return {str(file.relative_to(out)): file.stat().st_size for file in sorted(out.rglob("*")) if file.is_file()}
