"""The training loop, on a toy stage."""

import http.server
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from osmnet.data.shards import read_range
from osmnet.loading.model import WEIGHTS_NAME
from osmnet.training.core import trainer
from osmnet.training.core.checkpoint import newest_checkpoint
from osmnet.training.core.state import DISCRIMINATOR_OPTIMIZER, Ema, RunState
from tests.support.toy_stage import Toy, ToyConfig, ToyStage, log_of, made, run, same, trained

# The files of a run


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
    assert made(tmp_path)["calls"] == 3  # buffers are copied
    run(tmp_path / "none", ToyConfig(steps=3, ema=0), Scoreless)
    assert same(made(tmp_path / "none"), states[-1])


def test_average_follows_the_network():
    torch.manual_seed(0)
    network = Toy(0.25)
    average = Ema(network, 0.75)
    assert average.module.config.rate == average.module.dropout.p == 0.25
    assert not average.module.training and not any(p.requires_grad for p in average.parameters())
    start = average.module.linear_in.bias.clone()
    with torch.no_grad():
        network.linear_in.bias += 1
    average.update(network, step=0)  # a tenth stays
    torch.testing.assert_close(average.module.linear_in.bias, start + 0.9)
    average.update(network, step=10**6)
    torch.testing.assert_close(average.module.linear_in.bias, start + 0.925)


def test_the_best_average_is_kept_across_a_stop(tmp_path: Path):
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


def test_the_discriminator_learns_only_when_active_and_moves_nothing_else(tmp_path: Path):
    def after(steps: int, **settings) -> dict[str, torch.Tensor]:
        folder = tmp_path / f"{steps}-{len(settings)}-{settings.get('adversarial_from', '')}"
        run(folder, ToyConfig(steps=steps, schedule="constant", **settings))
        return trained(folder)

    start = ToyStage(ToyConfig())
    discriminator, network = "others/objective/discriminator.weight", "networks/toy/linear_in.weight"
    torch.testing.assert_close(
        after(2)[discriminator], start.adversary.discriminator.weight.data
    )  # idle for two steps
    assert not torch.equal(after(3)[discriminator], start.adversary.discriminator.weight.data)
    # It learns whatever weight its loss has for the networks; and it never moves them by itself.
    weights = {"l2": 1.0, "g": 0.0, "watched": 0.0}
    active, idle = after(4, weights=weights), after(4, weights=weights, adversarial_from=99)
    assert torch.equal(active[network], idle[network])
    assert not torch.equal(active[discriminator], idle[discriminator])
    assert not torch.equal(after(3)[network], active[network])
    # The networks' adversarial loss is no gradient of its own.
    moments = []
    for weight in (0.0, 5.0):
        folder = tmp_path / f"weight-{weight}"
        run(folder, ToyConfig(steps=1, adversarial_from=0, weights={"l2": 1.0, "g": weight, "watched": 0.0}))
        file = newest_checkpoint(folder / "work")[0].folder / DISCRIMINATOR_OPTIMIZER
        moments.append(torch.load(file, weights_only=True)["state"][0]["exp_avg"])
    assert moments[0].any() and torch.equal(*moments)


def test_bf16_trains_in_half_precision_and_saves_float32(tmp_path: Path):
    dtypes = set()

    class Watcher(ToyStage):
        def __init__(self, config):
            super().__init__(config)
            self.networks["toy"].linear_out.register_forward_hook(
                lambda module, _, output: dtypes.add((module.training, output.dtype))
            )

    report = run(tmp_path, ToyConfig(mixed_precision="bf16"), Watcher)
    assert dtypes == {(True, torch.bfloat16), (False, torch.float32)}  # steps, and validations of the average
    assert np.isfinite(list(report.values())).all()
    assert all(value.dtype in (torch.float32, torch.int64) for value in trained(tmp_path).values())
    run(tmp_path / "full", ToyConfig())  # another precision in the same process
    assert not same(trained(tmp_path), trained(tmp_path / "full"))
    with pytest.raises(ValueError, match="mixed_precision=fp16 needs a GPU"):
        run(tmp_path / "half", ToyConfig(mixed_precision="fp16"))


def test_a_gradient_scaler_changes_no_step_and_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As with fp16 on a GPU, but in float32 on the CPU: losses are scaled, gradients scaled back before the norm."""
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
        assert accelerators[-1].scaler.get_scale() == 2.0**12  # it doubled at steps 3 and 6: its state was restored


def test_the_launchers_accumulation_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run(tmp_path / "without", ToyConfig(steps=3))
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "2")
    run(tmp_path / "with", ToyConfig(steps=3))
    assert same(trained(tmp_path / "with"), trained(tmp_path / "without"))


def test_every_network_goes_to_the_device():
    """Also one that the objective does not hold: it is averaged, and `finish` may use it."""

    class Beside(ToyStage):
        def __init__(self, config):
            super().__init__(config)
            self.networks["beside"] = Toy().requires_grad_(False)

    accelerator = SimpleNamespace(
        device=torch.device("meta"), is_main_process=False, scaler=None, prepare_optimizer=lambda optimizer: optimizer,
        prepare_model=lambda model: model.to("meta"), register_save_state_pre_hook=lambda hook: None,
        register_load_state_pre_hook=lambda hook: None,
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


@pytest.mark.integration
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
    read_range(address, 0, 3)  # here, too, as for a dataset that is opened
    try:
        assert run(tmp_path, ToyConfig(steps=4, workers=2), Remote)["step"] in (2, 4)
    finally:
        server.shutdown()
        server.server_close()
