"""A tiny pipeline of the real classes, and a face and a voice for it to work on.

The geometry is real (the shipped face model and landmarker, which any face needs); the networks are tiny and random,
so that no test depends on how well they were trained.
"""

import json
import time
import wave
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.torch import load_file, save_file

from osmnet.loading.model import WEIGHTS_NAME
from osmnet.loading.packaged import packaged_landmarker
from osmnet.pipelines.osm_net.pipeline_osm_net import OSMNetPipeline

REPOSITORY = Path(__file__).resolve().parents[2]
PORTRAIT = REPOSITORY / "examples" / "portrait_astronaut.jpg"
FACE_MODEL = packaged_landmarker().parent / "face_model"

SAMPLING_RATE = 16_000
SEED = 7


def tiny_pipeline(geometry: str = "mesh", seed: int = 0, words: bool = False) -> OSMNetPipeline:
    """`OSMNetPipeline.tiny`, in the order of arguments that the tests use."""
    return OSMNetPipeline.tiny(seed=seed, geometry=geometry, speech_encoder=words)


def portrait(side: int = 160) -> np.ndarray:
    """The astronaut's head and shoulders, `(side, side, 3)` uint8; her face is 0.4 of the side high."""
    with Image.open(PORTRAIT) as picture:
        head = picture.convert("RGB").crop((92, 0, 352, 260))
        return np.asarray(head.resize((side, side), Image.Resampling.LANCZOS))


def speech(seconds: float = 1.0, seed: int = 0) -> np.ndarray:
    """Something with the rhythm and the spectrum of a voice: a buzz through moving formants, in syllables."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * SAMPLING_RATE)) / SAMPLING_RATE
    pitch = 120 * (1 + 0.1 * np.sin(2 * np.pi * 0.7 * time))
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLING_RATE
    formant = 500 + 250 * np.sin(2 * np.pi * 1.9 * time + rng.uniform(0, 6))
    voice = sum(
        np.sin(k * phase) * np.exp(-(((k * pitch - formant) / 300) ** 2)) + 0.3 * np.sin(k * phase) / k
        for k in range(1, 25)
    )
    syllables = 0.1 + np.clip(np.sin(2 * np.pi * 4 * time + rng.uniform(0, 6)), 0, 1)
    voice = voice * syllables + 0.01 * rng.standard_normal(len(time))
    return (0.5 * voice / np.abs(voice).max()).astype(np.float32)


def write_wav(path: Path, waveform: np.ndarray, sampling_rate: int = SAMPLING_RATE) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, sampling_rate, 0, "NONE", ""))
        file.writeframes((waveform * 32767).astype("<i2").tobytes())
    return path


def edit_tensors(folder: Path, change, component: str = "motion_space") -> None:
    """Change the dictionary of tensors of a saved component."""
    path = folder / component / WEIGHTS_NAME
    state = load_file(path)
    change(state)
    save_file(state, path)


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def becomes_empty(folder: Path) -> bool:
    """Whether nothing but examples is left in a page's folder, a moment after its client has the answer."""
    until = time.monotonic() + 20
    while (left := [path for path in folder.iterdir() if not path.name.startswith("example-")]) and (
        time.monotonic() < until
    ):
        time.sleep(0.05)
    return not left
