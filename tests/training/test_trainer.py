"""The training loop, on a toy stage: two layers with dropout, a discriminator, and a score."""

import http.server
import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from diffusers.configuration_utils import register_to_config
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from osmnet.data.shards import read_range
from osmnet.loading.model import WEIGHTS_NAME, OSMNetModel
from osmnet.training.core import trainer
from osmnet.training.core.average import moving_average, update_average
from osmnet.training.core.checkpoint import newest_checkpoint, save_checkpoint
from osmnet.training.core.config import StageConfig
from osmnet.training.core.processes import Stopped
from osmnet.training.core.stage import Stage
from osmnet.training.core.state import RunState
from osmnet.training.core.trainer import fit


@dataclass(frozen=True)
class ToyConfig(StageConfig):
    """Settings of the toy; `parts` batches are put together to one."""

    steps: int = 6
    batch_size: int = 4
    learning_rate: float = 1e-2
    ema: float = 0.9
    validate_every: int = 2
    sample_every: int = 0
    checkpoint_every: int = 2
    weights: dict[str, float] = field(default_factory=lambda: {"l2": 1.0, "g": 0.1, "watched": 0.0})
    dropout: float = 0.5
    judge_from: int = 2
    parts: int = 1


class Toy(OSMNetModel):
    """Two layers, and a buffer that counts calls."""

    @register_to_config
    def __init__(self, rate: float = 0.5) -> None:
        super().__init__()
        self.linear_in, self.dropout, self.linear_out = nn.Linear(3, 8), nn.Dropout(rate), nn.Linear(8, 2)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.calls += 1
        return self.linear_out(self.dropout(self.linear_in(x).tanh()))


class Objective(nn.Module):
    def __init__(self, toy: Toy, judge: nn.Module):
        super().__init__()
        self.toy, self.judge = toy, judge

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        self.guess = self.toy(batch["x"])
        return {
            "l2": (self.guess - batch["y"]).square().mean(),
            "g": -self.judge(self.guess).mean(),
            "watched": self.guess.abs().mean(),
        }


class Adversary(nn.Module):
    def __init__(self, objective: Objective, judge: nn.Module):
        super().__init__()
        self.judge, self.kept = judge, [objective]  # a list, so that the objective is no part of it

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        fake = self.kept[0].guess.detach().float()
        real, made = self.judge(batch["y"]), self.judge(fake)
        return {"d": torch.relu(1 - real).mean() + torch.relu(1 + made).mean()}


class ToyStage(Stage):
    name = "toy"
    made_for = {"face": "this one"}

    def __init__(self, config: ToyConfig):
        self.config = config
        torch.manual_seed(config.seed)
        toy, judge = Toy(config.dropout), nn.Linear(2, 1)
        self.networks = {"toy": toy}
        self.objective = Objective(toy, judge)
        self.adversary = Adversary(self.objective, judge)

    def batch(self, step: int, rank: int, world: int, micro: int) -> dict[str, torch.Tensor]:
        time.sleep(float(os.environ.get("TOY_PAUSE", "0")))
        x = []
        for part in range(self.config.parts):
            # The same examples whether parts, batches of a step or processes share them.
            share = (micro * self.config.parts + part) * world + rank
            rng = np.random.default_rng([self.config.seed, step, share])
            x.append(rng.normal(size=(self.config.batch_size, 3)).astype(np.float32))
        x = torch.from_numpy(np.concatenate(x))
        return {"x": x, "y": torch.stack([x[:, 0] * x[:, 1], x[:, 2]], 1)}

    def begin_step(self, step: int) -> None:
        self.adversary_active = step >= self.config.judge_from

    def validate(self, networks: dict[str, OSMNetModel]) -> dict[str, float]:
        assert not networks["toy"].training and not torch.is_grad_enabled()
        torch.rand(1), np.random.rand(), random.random()  # looking must not change the run
        batch = self.batch(10**6, 0, 1, 0)
        error = (networks["toy"](batch["x"]) - batch["y"]).square().mean()
        return {"error": float(error), "score": -float(error)}

    def figures(self, networks: dict[str, OSMNetModel]) -> dict[str, np.ndarray]:
        return {"stripes": np.tile(np.uint8([[0], [90], [255]])[..., None], (1, 5, 3))}

    def finish(self, networks: dict[str, OSMNetModel]) -> dict[str, float]:
        networks["toy"].linear_out.bias += 1
        return {"finished": 1.0}


def run(folder: Path, config: ToyConfig, stage: type[ToyStage] = ToyStage) -> dict[str, float]:
    return fit(stage(config), config, folder / "model", folder / "work")


def made(folder: Path) -> dict[str, torch.Tensor]:
    """The network that a run has saved."""
    return load_file(folder / "model" / "toy" / WEIGHTS_NAME)


def trained(folder: Path) -> dict[str, torch.Tensor]:
    """What the newest checkpoint of a run holds: network, average and discriminator."""
    checkpoint = newest_checkpoint(folder / "work")[0]
    files = ("networks", "average", "others")
    return {f"{file}/{name}": tensor for file in files for name, tensor in checkpoint.tensors(file).items()}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def log_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "work" / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """A run of 40 steps that nothing disturbed."""
    folder = tmp_path_factory.mktemp("plain")
    return folder, run(folder, ToyConfig(steps=40))


# What a run leaves


def test_a_run_learns_and_logs_under_the_names_of_the_losses(plain: tuple[Path, dict[str, float]]):
    folder, report = plain
    assert set(report) == {"step", "l2", "g", "watched", "d", "val/error", "val/score", "finished"}
    log = log_of(folder)
    errors = [line["val/error"] for line in log if "val/error" in line]
    assert len(errors) == 20 and errors[-1] < 0.8 * errors[0]
    assert report["val/error"] == pytest.approx(min(errors), rel=1e-5)
    losses = [line for line in log if "l2" in line]
    assert [line["step"] for line in losses] == list(range(2, 41, 2))  # at every checkpoint
    assert "d" not in losses[0] and "d" in losses[-1]  # the adversary comes in at step 2
    assert losses[-1]["lr"] == pytest.approx(ToyConfig(steps=40).rate(39), rel=1e-4)

    curves = EventAccumulator(str(folder / "work" / "tensorboard")).Reload()
    assert set(curves.Tags()["scalars"]) == {"l2", "g", "watched", "d", "lr", "val/error", "val/score"}
    assert [event.step for event in curves.Scalars("l2")] == list(range(2, 41, 2))
    assert curves.Scalars("l2")[-1].value == pytest.approx(losses[-1]["l2"], rel=1e-4)
    assert curves.Tags()["images"] == ["stripes"]
    picture = np.asarray(Image.open(folder / "work" / "samples" / "000040-stripes.png"))
    assert picture.shape == (3, 5, 3) and picture[1, 0, 0] == 90

    config = yaml.safe_load((folder / "work" / "config.yaml").read_text())
    assert config["stage"] == "toy" and config["settings"]["weights"] == {"l2": 1.0, "g": 0.1, "watched": 0.0}
    assert config["versions"]["torch"] == torch.__version__ and "commit" in config
    names = {path.name for path in (folder / "work").iterdir()}
    assert names == {
        ".lock", "checkpoint-000038", "checkpoint-000040", "config.yaml", "log.jsonl", "samples", "tensorboard"
    }  # fmt: skip


def test_the_average_is_saved_and_forgets_its_beginning(tmp_path: Path):
    class Scoreless(ToyStage):
        def validate(self, networks):
            return {}

        def finish(self, networks):
            return {}

    class Watcher(Scoreless):
        def batch(self, step, rank, world, micro):
            states.append({name: value.clone() for name, value in self.networks["toy"].state_dict().items()})
            return super().batch(step, rank, world, micro)

    states: list[dict] = []
    config = ToyConfig(steps=3, ema=0.5)
    run(tmp_path, config, Watcher)
    states.append({k.removeprefix("networks/toy/"): v for k, v in trained(tmp_path).items() if "networks" in k})
    expected = states[0]["linear_in.weight"]
    for step in range(3):
        stays = min(0.5, (step + 1) / (step + 10))
        expected = stays * expected + (1 - stays) * states[step + 1]["linear_in.weight"]
    torch.testing.assert_close(made(tmp_path)["linear_in.weight"], expected)
    assert made(tmp_path)["calls"] == 3  # whole numbers are taken as they are
    run(tmp_path / "none", ToyConfig(steps=3, ema=0), Scoreless)
    assert same(made(tmp_path / "none"), states[-1])


def test_the_best_average_is_kept_also_over_a_stop(tmp_path: Path):
    class Scored(ToyStage):
        def validate(self, networks):
            seen.append({name: value.clone() for name, value in networks["toy"].state_dict().items()})
            return {"score": {1: 1.0, 2: 3.0}.get(len(seen), 2.0)}

        def finish(self, networks):
            return {}

    seen: list[dict] = []
    assert run(tmp_path, ToyConfig(steps=6), Scored)["step"] == 4
    assert len(seen) == 3 and same(made(tmp_path), seen[1])
    assert run(tmp_path, ToyConfig(steps=10), Scored)["step"] == 4
    assert len(seen) == 5 and same(made(tmp_path), seen[1])


def test_a_finished_run_only_finishes_again(plain: tuple[Path, dict[str, float]]):
    folder, report = plain
    before = made(folder)
    (folder / "model" / "toy" / WEIGHTS_NAME).unlink()
    assert run(folder, ToyConfig(steps=40)) == report
    assert same(made(folder), before)


# Steps


def test_accumulated_batches_are_one_large_batch(tmp_path: Path):
    settings = {"dropout": 0.0, "steps": 4, "clip_norm": 0.1, "schedule": "constant"}
    run(tmp_path / "whole", ToyConfig(parts=2, **settings))
    run(tmp_path / "parts", ToyConfig(gradient_accumulation=2, **settings))
    run(tmp_path / "half", ToyConfig(**settings))
    whole, parts, half = (trained(tmp_path / name) for name in ("whole", "parts", "half"))
    for name in whole:
        if not name.endswith("calls"):
            torch.testing.assert_close(parts[name], whole[name], rtol=0, atol=1e-5)
    assert not torch.allclose(half["networks/toy/linear_in.weight"], whole["networks/toy/linear_in.weight"], atol=1e-4)


def test_the_adversary_judges_only_when_active_and_moves_nothing_else(tmp_path: Path):
    def after(steps: int, **settings) -> dict[str, torch.Tensor]:
        folder = tmp_path / f"{steps}-{len(settings)}-{settings.get('judge_from', '')}"
        run(folder, ToyConfig(steps=steps, schedule="constant", **settings))
        return trained(folder)

    start = ToyStage(ToyConfig())
    judge = "others/objective/judge.weight"
    torch.testing.assert_close(after(2)[judge], start.adversary.judge.weight.data)  # idle for two steps
    assert not torch.equal(after(3)[judge], start.adversary.judge.weight.data)
    # Whether the networks listen to it or not, it learns; and it never moves them by itself.
    deaf, alone = ({"l2": 1.0, "g": 0.0, "watched": 0.0} for _ in range(2))
    with_judge = after(4, weights=deaf)
    without = after(4, weights=alone, judge_from=99)
    assert torch.equal(with_judge["networks/toy/linear_in.weight"], without["networks/toy/linear_in.weight"])
    assert not torch.equal(with_judge[judge], without[judge])
    assert not torch.equal(after(3)["networks/toy/linear_in.weight"], with_judge["networks/toy/linear_in.weight"])
    # What the networks want of it is no gradient of its own.
    moments = []
    for weight in (0.0, 5.0):
        folder = tmp_path / f"weight-{weight}"
        run(folder, ToyConfig(steps=1, judge_from=0, weights={"l2": 1.0, "g": weight, "watched": 0.0}))
        moments.append(newest_checkpoint(folder / "work")[0].state()["judge_optimiser"]["state"][0]["exp_avg"])
    assert moments[0].any() and torch.equal(*moments)


def test_bf16_trains_in_half_precision_and_saves_float32(tmp_path: Path, plain: tuple[Path, dict[str, float]]):
    dtypes = set()

    class Watcher(ToyStage):
        def __init__(self, config):
            super().__init__(config)
            self.networks["toy"].linear_out.register_forward_hook(
                lambda module, _, output: dtypes.add((module.training, output.dtype))
            )

    report = run(tmp_path, ToyConfig(mixed_precision="bf16"), Watcher)
    assert dtypes == {(True, torch.bfloat16)}
    assert np.isfinite(list(report.values())).all()
    assert all(value.dtype in (torch.float32, torch.int64) for value in trained(tmp_path).values())
    run(tmp_path / "full", ToyConfig())  # another precision in the same process
    assert not same(trained(tmp_path), trained(tmp_path / "full"))
    with pytest.raises(ValueError, match="mixed_precision=fp16 needs a GPU"):
        run(tmp_path / "half", ToyConfig(mixed_precision="fp16"))


def test_a_gradient_scaler_changes_no_step_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What fp16 needs on a GPU, with float32 on the CPU: losses are scaled, gradients scaled back before the norm."""
    accelerators = []

    class Scaling(trainer.Accelerator):
        def __init__(self, **options):
            super().__init__(**options)
            self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
            accelerators.append(self)

        def unscale_gradients(self, optimizer=None):  # as its own does for fp16
            for each in self._optimizers:
                self.scaler.unscale_(each.optimizer)

    for clip_norm in (0.0, 0.1):
        settings = {"gradient_accumulation": 2, "clip_norm": clip_norm, "schedule": "constant"}
        plain, scaled = tmp_path / f"plain-{clip_norm}", tmp_path / f"scaled-{clip_norm}"
        run(plain, ToyConfig(steps=6, **settings))
        with monkeypatch.context() as patch:
            patch.setattr(trainer, "Accelerator", Scaling)
            run(scaled, ToyConfig(steps=4, **settings))
            run(scaled, ToyConfig(steps=6, **settings))
        for name, tensor in trained(plain).items():
            torch.testing.assert_close(trained(scaled)[name], tensor, rtol=0, atol=1e-6)
        assert accelerators[-1].scaler.get_scale() == 2.0**12  # it doubled at steps 3 and 6: nothing was forgotten


def test_the_launchers_accumulation_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run(tmp_path / "without", ToyConfig(steps=3))
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "2")
    run(tmp_path / "with", ToyConfig(steps=3))
    assert same(trained(tmp_path / "with"), trained(tmp_path / "without"))


def test_every_network_goes_to_the_device(tmp_path: Path):
    """Also one that the objective does not hold: it is averaged, and `finish` may use it."""

    class Beside(ToyStage):
        def __init__(self, config):
            super().__init__(config)
            self.networks["beside"] = Toy().requires_grad_(False)

    accelerator = SimpleNamespace(
        device=torch.device("meta"), is_main_process=False, scaler=None, prepare_optimizer=lambda optimiser: optimiser,
        prepare_model=lambda model: model.to("meta"),
    )  # fmt: skip
    stage = Beside(ToyConfig())
    RunState(stage, stage.config, accelerator)
    assert {tensor.device.type for tensor in stage.networks["beside"].state_dict().values()} == {"meta"}


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path):
    class Exploding(ToyStage):
        def batch(self, step, rank, world, micro):
            batch = super().batch(step, rank, world, micro)
            return {**batch, "y": batch["y"] * (float("inf") if step == 4 else 1)}

    with pytest.raises(ValueError, match="loss l2 of stage toy is (inf|nan) at step 6; lower learning_rate"):
        run(tmp_path, ToyConfig(), Exploding)
    assert newest_checkpoint(tmp_path / "work")[0].step == 4


def test_a_stage_without_any_weight_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="None of the losses l2, g, watched has a weight"):
        run(tmp_path, ToyConfig(weights={"l2": 0.0, "g": 0.0}))


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_of_batches_arrive_as_they_are(tmp_path: Path, workers: int):
    class Damaged(ToyStage):
        def batch(self, step, rank, world, micro):
            if step == 3:
                raise ValueError("Clip 'ann' is damaged; prepare it again.")
            return super().batch(step, rank, world, micro)

    with pytest.raises(ValueError, match="^Clip 'ann' is damaged; prepare it again.$"):
        run(tmp_path, ToyConfig(workers=workers), Damaged)


def test_loader_processes_read_addresses(tmp_path: Path):
    """fsspec reads addresses in a thread of its own, which a forked process does not have."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
            self.send_response(206)
            self.send_header("Content-Length", str(last + 1 - first))
            self.end_headers()
            self.wfile.write(bytes(range(first, last + 1)))

        def log_message(self, *_):
            pass

    class Remote(ToyStage):
        def batch(self, step, rank, world, micro):
            start = step % 100
            assert read_range(address, start, 3) == bytes([start, start + 1, start + 2])
            return super().batch(step, rank, world, micro)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/shard.tar"
    read_range(address, 0, 3)  # here, too, as a dataset that is opened
    try:
        assert run(tmp_path, ToyConfig(steps=4, workers=2), Remote)["step"] in (2, 4)
    finally:
        server.shutdown()
        server.server_close()


# Stopping and going on


def test_a_killed_run_goes_on_as_if_nothing_had_been(
    tmp_path: Path, plain: tuple[Path, dict[str, float]], subprocess_environment: dict[str, str]
):
    child = subprocess.Popen(
        [sys.executable, __file__, str(tmp_path), json.dumps({"steps": 40})],
        env={**subprocess_environment, "TOY_PAUSE": "0.05"}, stderr=subprocess.PIPE,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while newest_checkpoint_number(tmp_path / "work") < 4 and time.monotonic() < deadline and child.poll() is None:
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.3))
    child.kill()
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    assert 4 <= newest_checkpoint_number(tmp_path / "work") < 40
    folder, report = plain
    assert run(tmp_path, ToyConfig(steps=40)) == report
    assert same(made(tmp_path), made(folder)) and same(trained(tmp_path), trained(folder))
    assert log_of(tmp_path) == log_of(folder)


def newest_checkpoint_number(work: Path) -> int:
    return max((int(folder.name[-6:]) for folder in work.glob("checkpoint-*")), default=0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_told_to_stop_saves_first(
    tmp_path: Path, plain: tuple[Path, dict[str, float]], number: signal.Signals
):
    class Stopping(ToyStage):
        def begin_step(self, step):
            super().begin_step(step)
            if step == 12:
                os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(Stopped, match="stopped after step 13; run the same command again") as stopped:
        run(tmp_path, ToyConfig(steps=40), Stopping)
    assert stopped.value.status == 128 + number
    assert signal.getsignal(number) is before
    assert newest_checkpoint(tmp_path / "work")[0].step == 13
    # Loader processes make the same batches, and looking more often changes nothing.
    folder, _ = plain
    run(tmp_path, ToyConfig(steps=40, workers=2, validate_every=7, checkpoint_every=0, keep_checkpoints=5))
    assert same(trained(tmp_path), trained(folder))


def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    tmp_path: Path, plain: tuple[Path, dict[str, float]], capsys: pytest.CaptureFixture[str]
):
    run(tmp_path, ToyConfig(steps=20, keep_checkpoints=3, schedule="constant"))
    work = tmp_path / "work"
    for name, file in (("checkpoint-000020", "networks.safetensors"), ("checkpoint-000018", "config.json")):
        content = bytearray((work / name / file).read_bytes())
        content[len(content) // 2] ^= 1  # one bit
        (work / name / file).write_bytes(content[: -1 if file == "config.json" else None])
    for folder in (work, tmp_path / "model" / "toy"):
        (folder / ".saving-abc").mkdir()  # of a run that was killed
    capsys.readouterr()
    run(tmp_path, ToyConfig(steps=20, keep_checkpoints=3, schedule="constant"))
    said = capsys.readouterr().err
    assert "checkpoint-000020' is damaged (networks.safetensors is not as it was written)" in said
    assert "checkpoint-000018' is damaged" in said and "going on from" in said
    assert not list(tmp_path.rglob(".saving-*"))
    run(tmp_path / "again", ToyConfig(steps=20, schedule="constant"))
    assert same(trained(tmp_path), trained(tmp_path / "again"))
    for folder in work.glob("checkpoint-*"):
        (folder / "state.pt").unlink()
    checkpoint, remarks = newest_checkpoint(work)
    assert checkpoint is None and len(remarks) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 0.5}, r"has learning_rate=0.01, not 0.5; set it alike, or give another folder with --work"),
        ({"weights": {"l2": 2.0, "g": 0.1, "watched": 0.0}}, r"has weights.l2=1.0, not 2.0"),
        ({"gradient_accumulation": 3}, "has gradient_accumulation=1, not 3"),
    ],
)
def test_a_run_of_other_settings_is_refused(plain: tuple[Path, dict[str, float]], settings: dict, message: str):
    before = sorted((plain[0] / "work").rglob("*"))
    with pytest.raises(ValueError, match=message):
        run(plain[0], ToyConfig(steps=40, **settings))
    assert sorted((plain[0] / "work").rglob("*")) == before


def test_a_run_of_another_stage_or_network_is_refused(plain: tuple[Path, dict[str, float]]):
    class Other(ToyStage):
        name = "other"

    class Wider(ToyStage):
        def __init__(self, config):
            super().__init__(config)
            self.networks["toy"] = self.objective.toy = Wide()

    class Wide(Toy):
        def __init__(self):
            super().__init__()
            self.extra = nn.Linear(2, 2)

    class Elsewhere(ToyStage):
        made_for = {"face": "another"}

    with pytest.raises(ValueError, match="belongs to another face; delete it to train anew"):
        run(plain[0], ToyConfig(steps=40), Elsewhere)
    with pytest.raises(ValueError, match="has stage=toy, not other"):
        run(plain[0], ToyConfig(steps=40), Other)
    with pytest.raises(ValueError, match="networks of another shape .toy/extra.bias"):
        run(plain[0], ToyConfig(steps=40), Wider)


@pytest.mark.parametrize("room", [100, 3000])  # too little for the tensors; for the rest
def test_a_full_disk_leaves_the_older_checkpoint(tmp_path: Path, room: int):
    tensors = {"networks": {"a": torch.ones(20)}}
    state = {"random": torch.zeros(5000, dtype=torch.uint8)}
    save_checkpoint(tmp_path, 1, {"stage": "toy"}, tensors, state, keep=1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))  # what cannot be written, the system says itself
    try:
        with pytest.raises(ValueError, match="Cannot save a checkpoint of step 2 .*free some .*checkpoint-000001"):
            save_checkpoint(tmp_path, 2, {"stage": "toy"}, tensors, state, keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-000001"]
    checkpoint, remarks = newest_checkpoint(tmp_path)
    assert checkpoint.step == 1 and not remarks
    assert torch.equal(checkpoint.state()["random"], state["random"])
    assert torch.equal(checkpoint.tensors("networks")["a"], torch.ones(20))


def test_a_checkpoint_never_runs_code(tmp_path: Path):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "trapped"),))

    folder = save_checkpoint(tmp_path / "work", 1, {}, {}, {"random": [Trap()]}, keep=1)
    checkpoint = newest_checkpoint(tmp_path / "work")[0]
    assert checkpoint.folder == folder
    with pytest.raises(Exception, match="[Ww]eights.only"):
        checkpoint.state()
    assert not (tmp_path / "trapped").exists()


# Several processes


def test_two_processes_average_their_gradients(
    tmp_path: Path, subprocess_environment: dict[str, str], capsys: pytest.CaptureFixture[str]
):
    settings = {"dropout": 0.0, "steps": 3, "clip_norm": 0.1, "schedule": "constant"}
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    port = ["--main_process_port", str(20_000 + os.getpid() % 20_000)]
    done = subprocess.run(
        [*launch, *port, __file__, str(tmp_path / "two"), json.dumps(settings | {"gradient_accumulation": 2})],
        env={**subprocess_environment, "ACCELERATE_USE_CPU": "true"},  # two processes on one CPU, without any GPU
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    reports = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(reports) == 2 and reports[0] == reports[1]
    run(tmp_path / "one", ToyConfig(gradient_accumulation=4, **settings))
    one, two = trained(tmp_path / "one"), trained(tmp_path / "two")
    for name in one:
        if not name.endswith("calls"):
            torch.testing.assert_close(two[name], one[name], rtol=0, atol=1e-5)
    # Both processes' losses are in the log, and each has random numbers of its own.
    for first, second in zip(log_of(tmp_path / "one"), log_of(tmp_path / "two"), strict=True):
        assert first == pytest.approx(second, abs=1e-5)
    states = newest_checkpoint(tmp_path / "two" / "work")[0].state()["random"]
    assert len(states) == 2 and not torch.equal(states[0]["torch"], states[1]["torch"])
    capsys.readouterr()
    run(tmp_path / "two", ToyConfig(**{**settings, "steps": 4, "gradient_accumulation": 2}))
    assert "2 process(es) began this run and 1 go on" in capsys.readouterr().err


# Averages


def test_average_follows_the_network():
    torch.manual_seed(0)
    network = Toy(0.25)
    average = moving_average(network)
    assert average.config.rate == average.dropout.p == 0.25
    start = average.linear_in.bias.clone()
    with torch.no_grad():
        network.linear_in.bias += 1
    update_average(average, network, step=0, decay=0.999)  # stays 1/10
    torch.testing.assert_close(average.linear_in.bias, start + 0.9)
    update_average(average, network, step=10**6, decay=0.75)
    torch.testing.assert_close(average.linear_in.bias, start + 0.925)


if __name__ == "__main__":  # a child process of the tests above
    sys.stdout.write(json.dumps(run(Path(sys.argv[1]), ToyConfig(**json.loads(sys.argv[2])))) + "\n")
