"""A toy stage for the training loop: two layers with dropout, a discriminator, and a score.

As a program, `python toy_stage.py FOLDER SETTINGS` trains it with settings as JSON and prints the report.
"""

import json
import os
import random
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from diffusers.configuration_utils import register_to_config
from safetensors.torch import load_file
from torch import nn

from osmnet.loading.model import WEIGHTS_NAME, OSMNetModel
from osmnet.training.core.checkpoint import newest_checkpoint
from osmnet.training.core.config import StageConfig
from osmnet.training.core.stage import Stage
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
    adversarial_from: int = 2
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
    def __init__(self, toy: Toy, discriminator: nn.Module):
        super().__init__()
        self.toy, self.discriminator = toy, discriminator

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        self.guess = self.toy(batch["x"])
        return {
            "l2": (self.guess - batch["y"]).square().mean(),
            "g": -self.discriminator(self.guess).mean(),
            "watched": self.guess.abs().mean(),
        }


class Adversary(nn.Module):
    def __init__(self, objective: Objective, discriminator: nn.Module):
        super().__init__()
        self.discriminator, self.kept = discriminator, [objective]  # a list, so that it is no submodule

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        fake = self.kept[0].guess.detach().float()
        real_logits, fake_logits = self.discriminator(batch["y"]), self.discriminator(fake)
        return {"d": torch.relu(1 - real_logits).mean() + torch.relu(1 + fake_logits).mean()}


class ToyStage(Stage):
    name = "toy"
    made_for = {"face": "this one"}

    def __init__(self, config: ToyConfig):
        self.config = config
        torch.manual_seed(config.seed)
        toy, discriminator = Toy(config.dropout), nn.Linear(2, 1)
        self.networks = {"toy": toy}
        self.objective = Objective(toy, discriminator)
        self.adversary = Adversary(self.objective, discriminator)

    def batch(self, step: int, rank: int, world: int, micro: int) -> dict[str, torch.Tensor]:
        time.sleep(float(os.environ.get("TOY_PAUSE", "0")))
        if [rank, step] == json.loads(os.environ.get("TOY_DAMAGE", "[]")):
            raise ValueError("Clip 'ann' is damaged; prepare it again.")
        x = []
        for part in range(self.config.parts):
            # The same examples whether parts, batches of a step or processes share them.
            share = (micro * self.config.parts + part) * world + rank
            rng = np.random.default_rng([self.config.seed, step, share])
            x.append(rng.normal(size=(self.config.batch_size, 3)).astype(np.float32))
        x = torch.from_numpy(np.concatenate(x))
        return {"x": x, "y": torch.stack([x[:, 0] * x[:, 1], x[:, 2]], 1)}

    def begin_step(self, step: int) -> None:
        self.adversary_active = step >= self.config.adversarial_from

    def validate(self, networks: dict[str, OSMNetModel]) -> dict[str, float]:
        assert not networks["toy"].training and not torch.is_grad_enabled()
        torch.rand(1), np.random.rand(), random.random()  # validation must not change the run
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
    """The newest checkpoint's network, average and discriminator."""
    tensors = newest_checkpoint(folder / "work")[0].tensors()
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("best/")}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def log_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "work" / "log.jsonl").read_text().splitlines()]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run(Path(sys.argv[1]), ToyConfig(**json.loads(sys.argv[2])))) + "\n")
    if torch.distributed.is_initialized():  # else its threads end, now and then, after what they need
        torch.distributed.destroy_process_group()
