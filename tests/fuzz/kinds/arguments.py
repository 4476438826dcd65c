"""Arguments: wrong types and absurd values in Python, and on the command line."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from tests.fuzz.case import Case
from tests.fuzz.kinds.shared import pipe, read_all, run_command, seeds_folder, source, speech

# Python expressions; `folder` holds portrait.png, speech.wav and clip.mp4.
VALUES = (
    "None", "True", "False", "0", "1", "3", "-1", "2.5",
    "10**400", "-10**400", "10**5000", "2**63", "2**64", "nan",
    "inf", "-inf", "1e308", "5e-324", "1j", "''", "'x'", "'span'", "'\\0'", "'a\\0b.mp4'", "'x' * 5000", "'\\ud800'",
    "'nan'", "'1'", "b'x'", "b''", "[]", "()", "{}", "set()", "[1]", "[1, 2, 3]",
    "[-1]", "[None]", "['a']", "[10**400]",
    "range(5000)", "[0] * 5000", "[[1], [2, 3]]", "{'a': 1}", "iter([1])", "object()", "print", "int", "Ellipsis",
    "np.zeros(0)", "np.zeros(6)", "np.full(6, nan)", "np.full(6, 1e30)", "np.zeros((2, 2, 2))", "np.array('x')",
    "np.array(1)", "np.float32(nan)", "np.int64(-1)", "np.uint8(200)", "np.bool_(True)", "np.array([1, 'a'], object)",
    "np.datetime64('NaT')", "np.array(10**400, object)", "np.zeros((5, 5), complex)", "Decimal('NaN')",
    "Decimal('1e99')",
    "Fraction(1, 3)", "torch.zeros(3)", "torch.Generator()", "[torch.Generator()]", "torch.float16", "Path('\\0')",
    "Path('.')", "Path('')", "folder", "folder / 'portrait.png'", "folder / 'speech.wav'", "folder / 'clip.mp4'",
    "str(folder / 'missing.mp4')", "'../../etc/passwd'", "'/dev/null'", "'/dev/zero'", "'http://127.0.0.1:9/x'",
    "'~'", "'cpu'", "'cuda:99'", "'meta'",
)  # fmt: skip
ARRAYS = (
    "np.zeros((0, 0, 3), np.uint8)", "np.zeros((64, 64, 3), np.uint8)", "np.full((64, 64, 3), nan)",
    "np.zeros((64, 64, 5))", "np.zeros((1, 10**7), np.uint8)", "np.zeros((64, 64, 3), complex)",
    "np.full((64, 64), 70000)", "np.zeros((64, 64, 3), object)", "np.zeros((2, 1, 3), np.uint8)",
    "np.zeros((64, 64), 'U3')", "np.broadcast_to(np.uint8(0), (10**6, 10**6, 3))", "np.full((8, 8, 3), -1)",
    "np.zeros(16000)", "np.full(16000, nan)", "np.zeros((16000, 100))", "np.ones(16000, np.int64)",
    "np.ones(16000, bool)", "np.full(16000, 1e38, np.float32)", "np.full(16000, 1e300)",
    "np.ones((3, 16000), np.int16)", "(np.ones(16000), 0)", "(np.ones(16000), 10**400)", "(16000, 16000)",
    "(np.ones(16000), nan)", "(1, 2, 3)",
    "(np.ones(16000), 16000, 1)", "('a', 'b')",
)  # fmt: skip
MOTION = (
    "num_videos", "epsilon", "sampling", "motion_scale", "expression_scale", "still", "blink", "yaw", "pitch", "roll",
    "head_motion", "near", "upper_face", "gaze",
)  # fmt: skip
PICTURE = ("full_frame", "size", "face")
# The arguments of each target that may become strange; others stay as the target gives them.
ARGUMENTS = {
    "call": ("portrait", "speech", "seed", "generator", "sampling_rate", "output_type", *MOTION, *PICTURE, "progress"),
    "stream": ("portrait", "speech", "label", "seed", *MOTION, *PICTURE),
    "live": ("seed", "generator", "lookahead", "block", "sampling_rate", "label", *MOTION, *PICTURE),
    "feed": ("chunk", "sampling_rate"),
    "encode_source": ("portrait", *PICTURE),
    "encode_speech": ("speech", "sampling_rate"),
    "sample_motion": ("speech", "seed", "generator", *MOTION),
    "extract_expression": ("source", "speech", "expression_scale"),
    "render": ("source", "motion", "expression", "chunks"),
    "save": ("path", "sheet", "progress", "resume", "label", "consent", "overwrite", "animation"),
    "load_portrait": ("portrait", "max_side", "isolated"),
    "load_speech": ("speech", "sampling_rate", "max_seconds", "isolated"),
    "recording": ("speech", "sampling_rate", "max_seconds"),
    "read_frames": ("path", "fps", "max_side"),
    "from_pretrained": ("pretrained_model_name_or_path", "dtype", "torch_dtype", "variant", "revision", "device",
                        "device_map", "face_landmarker", "cache_dir", "token"),
    "tiny": ("seed", "geometry", "speech_encoder"),
    "to": ("device", "dtype"),
    "save_pretrained": ("save_directory", "variant"),
    "dataset": ("source", "speech", "min_size", "by"),
    "verify": ("path", "trust_anchors"),
    "sign": ("path", "consent"),
}  # fmt: skip
SOUNDS, PORTRAITS = ("speech", "chunk"), ("portrait",)
# Values at or near the ends of what is allowed.
EDGES = {
    "num_videos": ("2", "100", "np.int64(3)"), "epsilon": ("0", "100", "np.float32(0.5)"), "sampling": ("'ball'",),
    "motion_scale": ("0", "10", "Fraction(1, 3)"), "expression_scale": ("0", "10"), "still": ("True",),
    "blink": ("False",), "yaw": ("60", "-60.0", "np.float64(1)", "np.zeros(13)", "[0.5] * 13"),
    "pitch": ("60", "[1] * 6"),
    "roll": ("-60",), "head_motion": ("folder / 'clip.mp4'",), "near": ("[2**63 - 1] * 64", "7", "np.arange(3)"),
    "full_frame": ("True", "False", "None"), "size": ("64", "65", "333", "2048"), "face": ("0", "1", "100"),
    "seed": ("0", "2**63 - 1", "[1, 2]", "np.int64(5)"), "sampling_rate": ("1000", "768_000", "16000.5", "44_100"),
    "output_type": ("'pil'", "'np'"), "lookahead": ("0", "25"), "block": ("1", "25"), "label": ("False",),
    "max_side": ("1", "65536"), "max_seconds": ("0", "0.3", "1e9"), "fps": ("0.001", "1000", "Fraction(30000, 1001)"),
    "chunk": ("np.zeros(0)", "np.zeros((100, 2), np.int16)", "np.ones(50_000, np.float32)", "np.zeros((7, 64))"),
    "chunks": ("[(0, 1)]", "[]", "((2, 5), (0, 6))"), "speech": ("(np.sin(np.arange(9000) / 9), 8000)",),
    "portrait": ("np.zeros((64, 64), bool)", "np.zeros((3000, 2, 4), np.uint16)"), "min_size": ("128", "0"),
    "dtype": ("torch.float64", "torch.bfloat16"), "device": ("'cpu'",), "geometry": ("'none'",), "path": ("'a.mp4'",),
}  # fmt: skip

TEXTS = (
    "", "x", "-1", "0", "1", "3", "nan", "inf", "1e999", "9" * 5000, "2.5", "1,2", "None", "missing.png",
    ".", "..", "/",
    "~", "/dev/null", "/dev/zero", "speech.wav", "portrait.png", "clip.mp4",
    "/proc/self/mem", "x" * 5000,
    "\udc80", "é", "--", "-n", "--help", "cuda:99", "http://127.0.0.1:9/x", "a/b", "-", "@x", "=", "\x1b[31m",
    "table.csv",
)  # fmt: skip
GENERATE = (
    "--output", "--overwrite", "--resume", "--no-sheet", "--animation", "--consent", "--no-label", "--seed",
    "--take-seed", "--num-videos", "--epsilon", "--sampling", "--motion-scale", "--expression-scale",
    "--still", "--yaw", "--pitch",
    "--roll", "--head-motion", "--near", "--no-blink", "--crop", "--size", "--face", "--model", "--revision",
    "--variant", "--device", "--precision", "--profile",
)  # fmt: skip
COMMANDS = {
    "generate": (["portrait.png", "speech.wav", "--crop", "--size", "64", "-n", "1", "--no-sheet"], GENERATE),
    "verify": (["portrait.png"], ("--trust", "--json")),
    "prepare": (["missing.mp4", "--out", "set"],
                ("--table", "--model", "--landmarker", "--workers", "--max-seconds", "--min-seconds", "--min-face",
                 "--min-sharpness", "--max-turn")),
    "train": (["motion", "--model", "m", "--data", "missing"], ("--config", "--work", "--out", "--threads", "--set")),
    "evaluate": (["--data", "missing", "--out", "report"],
                 ("--model", "--clips", "--takes", "--workers", "--device", "--syncnet", "--inception", "--sampling",
                  "--ablate", "--page", "--markdown")),
    "bases": (["--out", "figures", "--model", "missing"], ("--portrait", "--speech", "--portraits", "--video")),
    "gallery": (["--model", "missing"], ("--portraits", "--speech", "--seed")),
    "push": (["a/b", "--model", "missing"], ("--private", "--branch", "--message")),
    "doctor-x": ([], ()),
}  # fmt: skip
FLAGS = ("--overwrite", "--resume", "--no-sheet", "--consent", "--no-label", "--still", "--no-blink", "--crop",
         "--profile", "--json", "--private", "--markdown", "--video")  # fmt: skip


def make(rng: Random, seeds: Path) -> Case:
    """Make a case."""
    if rng.random() < 0.25:
        return Case("arguments", "command", base="call", arguments={"argv": repr(_argv(rng))})
    target = rng.choice(list(ARGUMENTS))
    names = rng.sample(ARGUMENTS[target], rng.choice((1, 1, 1, 2, 3)) if len(ARGUMENTS[target]) > 2 else 1)
    given = {}
    for name in names:
        arrays = name in SOUNDS + PORTRAITS and rng.random() < 0.5
        is_edge = name in EDGES and rng.random() < 0.4
        given[name] = rng.choice(EDGES[name] if is_edge else ARRAYS if arrays else VALUES)
    return Case("arguments", target, base="call", arguments=given)


def _argv(rng: Random) -> list[str]:
    command = rng.choice(("generate", "generate", "generate", *COMMANDS))
    given, options = COMMANDS[command]
    argv = list(given)
    for _ in range(rng.choice((1, 1, 2, 3))):
        if options and rng.random() < 0.8:
            option = rng.choice(options)
            argv += [option] if option in FLAGS else [option, rng.choice(TEXTS)]
        elif argv:
            argv[rng.randrange(len(argv))] = rng.choice(TEXTS)
    return [command, *argv]


def names() -> dict[str, Any]:
    """Names that the expressions of arguments may use."""
    import torch

    return {
        "np": np, "torch": torch, "Path": Path, "Decimal": Decimal, "Fraction": Fraction, "nan": float("nan"),
        "inf": float("inf"),
    }  # fmt: skip


def command(folder: Path, argv: list[str]) -> Any:
    """Run a command with strange arguments."""
    if argv[0] == "generate" and "--model" not in argv:
        argv = [*argv, "--model", str(seeds_folder() / "model")]
    allowed = (0, 1, 3, 4) if argv[0] == "verify" else (0,)
    return run_command(argv, folder, allowed)


def call(folder: Path, portrait: Any = None, speech_: Any = None, **given: Any) -> Any:
    """Make takes."""
    output = pipe()(portrait, speech_, **{"output_type": "lazy", **given})
    if len(output) <= 4 and output.num_frames <= 50 and max(output.source.frame_size) <= 128:
        output.render()
    return output


def stream(folder: Path, portrait: Any, speech_: Any, **given: Any) -> Any:
    """Stream takes, the first chunk."""
    with contextlib.closing(pipe().stream(portrait, speech_, **given)) as chunks:
        return next(iter(chunks)) if given.get("num_videos", 1) in (0, 1, 2, 3) else None


def live(folder: Path, **given: Any) -> Any:
    """Begin a live take and feed it."""
    portrait = folder / "portrait.png" if {"size", "full_frame", "face"} & given.keys() else source()
    session = pipe().live(portrait, **given)
    session.feed(np.zeros(3200, np.float32), given.get("sampling_rate", 16_000))
    return session.finish()


def feed(folder: Path, **given: Any) -> Any:
    """Feed strange sound to a live take."""
    session = pipe().live(source(), seed=1)
    session.feed(given.get("chunk", np.zeros(3200, np.float32)), given.get("sampling_rate", 16_000))
    return session.finish()


def render(folder: Path, **given: Any) -> Any:
    """Render strange steps."""
    motion = pipe().sample_motion(speech(), seed=1)
    return read_all(pipe().render(**{"source": source(), "motion": motion, **given}))


def save(folder: Path, path: Any = "out", **given: Any) -> Any:
    """Save takes in a strange way."""
    output = pipe()(source(), speech(), seed=1, output_type="lazy")
    path = folder / path if isinstance(path, str) and not path.startswith(("/", "~", "..", "http")) else path
    return output.save(path, **{"sheet": False, **given})


def from_pretrained(folder: Path, **given: Any) -> Any:
    """Load a model by strange arguments."""
    from osmnet.pipelines.osm_net.pipeline_osm_net import OSMNetPipeline

    return OSMNetPipeline.from_pretrained(**{"pretrained_model_name_or_path": seeds_folder() / "model", **given})


def tiny(folder: Path, **given: Any) -> Any:
    """Build a tiny pipeline by strange arguments."""
    return type(pipe()).tiny(**given)


def to(folder: Path, **given: Any) -> Any:
    """Move a pipeline to a strange place."""
    return type(pipe()).tiny().to(**given)


def save_pretrained(folder: Path, save_directory: Any = "m", **given: Any) -> Any:
    """Save a pipeline in a strange place."""
    if isinstance(save_directory, str) and not save_directory.startswith(("/", "~", "..", "http")):
        save_directory = folder / save_directory
    return pipe().save_pretrained(save_directory, **given)


def recording(folder: Path, **given: Any) -> Any:
    """Open a strange recording."""
    from osmnet.media.recording import Recording

    return Recording.open(**{"speech": folder / "speech.wav", **given})[:16_000]


def dataset(folder: Path, source_: Any = None, **given: Any) -> Any:
    """Open a dataset by strange arguments."""
    from osmnet.data.dataset import Dataset

    opened = Dataset.open(seeds_folder() / "dataset" if source_ is None else source_)
    return opened.split(**given) if "by" in given else opened.clips(**given)


def _function(path: str, /, **usual: str) -> Callable[..., Any]:
    """Return a target that calls a function of the library, or a method of the pipeline."""

    def target(folder: Path, **given: Any) -> Any:
        from importlib import import_module

        module, _, name = path.rpartition(".")
        function = getattr(import_module(module) if module else pipe(), name)
        made = {"folder": folder, "source": source(), "speech": speech()}
        known = {each: made[value] if value in made else folder / value for each, value in usual.items()}
        result = function(**{**known, **given})
        return read_all(result, 50) if hasattr(result, "__next__") else result

    return target


def _with_files(function: Callable[..., Any], source_: bool = False) -> Callable[..., Any]:
    """Give a target its portrait and speech, whose names the arguments share with functions here."""

    def target(folder: Path, **given: Any) -> Any:
        given.setdefault("portrait", folder / "portrait.png")
        given.setdefault("speech", folder / "speech.wav")
        return function(folder, speech_=given.pop("speech"), **given)

    return target


TARGETS = {
    "command": command, "call": _with_files(call), "stream": _with_files(stream), "live": live, "feed": feed,
    "encode_source": _function("encode_source", portrait="portrait.png"),
    "encode_speech": _function("encode_speech", speech="speech.wav"),
    "sample_motion": _function("sample_motion", speech="speech"),
    "extract_expression": _function("extract_expression", source="source", speech="speech"),
    "render": render, "save": save,
    "load_portrait": _function("osmnet.media.image.load_portrait", portrait="portrait.png"),
    "load_speech": _function("osmnet.media.audio.load_speech", speech="speech.wav"),
    "recording": recording,
    "read_frames": _function("osmnet.media.video_reader.read_frames", path="clip.mp4"),
    "from_pretrained": from_pretrained, "tiny": tiny, "to": to, "save_pretrained": save_pretrained,
    "dataset": lambda folder, source=None, **given: dataset(folder, source, **given),
    "verify": _function("osmnet.provenance.verify.verify", path="portrait.png"),
    "sign": _function("osmnet.provenance.manifest.sign", path="portrait.png"),
}  # fmt: skip
