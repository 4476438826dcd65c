"""All that a run consists of between two steps: what is trained, averaged, kept, and goes into a checkpoint."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from osmnet.loading.fingerprint import weights_fingerprint
from osmnet.loading.model import OSMNetModel
from osmnet.training.core.average import moving_average, update_average
from osmnet.training.core.checkpoint import WRITE_ERRORS, Checkpoint
from osmnet.training.core.config import FREE_SETTINGS, StageConfig
from osmnet.training.core.random_state import seed_all, set_random_state
from osmnet.training.core.stage import Stage


class WeightedSum(nn.Module):
    """The weighted sum of a module's losses, and the losses for the log.

    Only the sum keeps its graph: with several processes, a loss that is returned but not used would be waited for.

    Args:
        losses (`nn.Module`): An objective or an adversary.
        weights (`dict[str, float]`, *optional*): By loss; a loss that is not there counts 0. Not given: each counts 1.
    """

    def __init__(self, losses: nn.Module, weights: dict[str, float] | None = None):
        super().__init__()
        self.losses, self.weights = losses, weights

    def forward(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the sum, and the losses without their graph."""
        losses = self.losses(batch)
        weights = dict.fromkeys(losses, 1.0) if self.weights is None else self.weights
        counted = [weights[name] * loss for name, loss in losses.items() if weights.get(name)]
        if not counted:
            raise ValueError(f"None of the losses {', '.join(losses)} has a weight above 0; set weights.LOSS.")
        return torch.stack(counted).sum(), {name: loss.detach() for name, loss in losses.items()}


class Judging(nn.Module):
    """An adversary in float32, whatever the precision of the networks is.

    Args:
        adversary (`nn.Module`): The stage's.
    """

    def __init__(self, adversary: nn.Module):
        super().__init__()
        self.sum = WeightedSum(adversary)

    def forward(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the sum of its losses, and the losses."""
        with torch.autocast(next(iter(batch.values())).device.type, enabled=False):
            return self.sum(batch)


@contextmanager
def frozen(parameters: list[nn.Parameter]) -> Iterator[None]:
    """Parameters that need no gradient for a while; gradients still flow through them."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


class RunState:
    """The parts of a run, wrapped for this machine.

    Args:
        stage (`Stage`): What is trained.
        config (`StageConfig`): How.
        accelerator (`Accelerator`): On what.

    Attributes:
        trained (`list[nn.Parameter]`): What `optimiser` steps: the networks, and what else the objective learns.
        judges (`list[nn.Parameter]`): What `judge_optimiser` steps: the adversary's own.
        averages (`dict[str, OSMNetModel]`): Moving averages of the networks; in the main process only.
        best_networks (`dict[str, OSMNetModel]`): The averages when the score was highest, if there is one.
        best (`dict`): `score`, `step` and `validation` of those.
        made_for (`dict[str, str]`): The stage's, and the fingerprint of the weights that the run starts from.
        validation (`dict[str, float]`): The last one.
        losses (`dict[str, float]`): The last ones logged.
    """

    def __init__(self, stage: Stage, config: StageConfig, accelerator: Accelerator):
        self.stage, self.config, self.accelerator = stage, config, accelerator
        self.best: dict[str, Any] = {}
        self.best_networks: dict[str, OSMNetModel] = {}
        self.validation: dict[str, float] = {}
        self.losses: dict[str, float] = {}

        for network in stage.networks.values():
            network.to(accelerator.device)  # also those that the objective does not hold
        adversary, betas = stage.adversary, (config.beta1, config.beta2)
        in_networks = {id(p) for network in stage.networks.values() for p in network.parameters()}
        judging = adversary.parameters() if adversary is not None else ()
        self.judges = [p for p in judging if p.requires_grad and id(p) not in in_networks]
        to_train = {
            name: network
            for name, network in stage.networks.items()
            if any(p.requires_grad for p in network.parameters())
        }
        start = weights_fingerprint(to_train) if config.init else "none"
        self.made_for = {**stage.made_for, "starting model": start}
        judges = {id(p) for p in self.judges}
        self.trained = [p for p in stage.objective.parameters() if p.requires_grad and id(p) not in judges]
        for module in (*stage.networks.values(), adversary):
            if module is not None:
                module.train()
        # Each is wrapped while the other's parameters need no gradient, so that none is waited for in vain.
        with frozen(self.judges):
            self.objective = accelerator.prepare_model(WeightedSum(stage.objective, config.weights))
        self.optimiser = accelerator.prepare_optimizer(
            torch.optim.AdamW(self.trained, config.learning_rate, betas, weight_decay=config.weight_decay)
        )
        self.adversary: nn.Module | None = None
        self.judge_optimiser: torch.optim.Optimizer | None = None
        if adversary is not None:
            with frozen(self.trained):
                self.adversary = accelerator.prepare_model(Judging(adversary))
            # Not prepared: one gradient scaler cannot serve two optimisers, and float32 needs none.
            self.judge_optimiser = torch.optim.Adam(self.judges, config.learning_rate, betas)
        self.averages = {}
        if accelerator.is_main_process:
            self.averages = {name: moving_average(network) for name, network in stage.networks.items()}

    @property
    def wrapped(self) -> list[nn.Module]:
        """The modules that gradients are exchanged for."""
        return [module for module in (self.objective, self.adversary) if module is not None]

    @property
    def kept(self) -> dict[str, OSMNetModel]:
        """The networks as they would be used now."""
        return self.best_networks or self.averages

    def average(self, step: int) -> None:
        """Let the averages follow the networks after a step."""
        for name, average in self.averages.items():
            update_average(average, self.stage.networks[name], step, self.config.ema)

    def judge(self, step: int, validation: dict[str, float]) -> None:
        """Take a validation in, and keep the averages if they are the best so far."""
        self.validation = {name: float(value) for name, value in validation.items()}
        score = self.validation.get("score", -math.inf)
        if score > self.best.get("score", -math.inf):
            self.best = {"score": score, "step": step, "validation": self.validation}
            self._keep({name: average.state_dict() for name, average in self.averages.items()})

    def save_networks(self, out: Path) -> None:
        """Save what would be used now, each network to `out/NAME`.

        Raises:
            ValueError: If the folder cannot be written.
        """
        for name, network in self.kept.items():
            try:
                network.save_pretrained(out / name)
            except WRITE_ERRORS as error:
                raise ValueError(
                    f"Cannot save {name} to '{out / name}' ({' '.join(str(error).split())}); free some space (or mend "
                    "the disk) and run the same command again to go on."
                ) from error

    def contents(self, random: list[dict]) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, Any]]:
        """What goes into a checkpoint: files of tensors, and the rest (with the random state of each process)."""
        tensors = {
            "networks": _flat(self.stage.networks), "average": _flat(self.averages),
            "best": _flat(self.best_networks), "others": self._others(),
        }  # fmt: skip
        state: dict[str, Any] = {
            "optimiser": self.optimiser.state_dict(), "random": random, "best": self.best,
            "validation": self.validation, "losses": self.losses,
        }  # fmt: skip
        if self.judge_optimiser is not None:
            state["judge_optimiser"] = self.judge_optimiser.state_dict()
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        return {name: entries for name, entries in tensors.items() if entries}, state

    def check(self, found: Checkpoint) -> None:
        """Check that a checkpoint is of this run.

        Raises:
            ValueError: If it belongs to another stage, to other settings or other networks.
        """
        before = _settings(found.about.get("settings", {})) | {"stage": found.about.get("stage")}
        now = _settings(dataclasses.asdict(self.config)) | {"stage": self.stage.name}
        for name, value in now.items():
            if name not in FREE_SETTINGS and name in before and before[name] != value:
                raise ValueError(
                    f"The run in '{found.folder.parent}' has {name}={before[name]}, not {value}; set it alike, or "
                    "give another folder with --work."
                )
        for name, value in self.made_for.items():
            if found.about.get("made_for", {}).get(name, value) != value:
                raise ValueError(
                    f"The run in '{found.folder.parent}' belongs to another {name}; delete it to train anew, or give "
                    "another folder with --work."
                )
        mine = _flat(self.stage.networks) | self._others()
        saved = found.tensors("networks") | found.tensors("others")
        if {name: tensor.shape for name, tensor in mine.items()} != {n: t.shape for n, t in saved.items()}:
            odd = sorted(mine.keys() ^ saved.keys()) or [n for n in mine if mine[n].shape != saved[n].shape]
            raise ValueError(
                f"The run in '{found.folder.parent}' has networks of another shape ({odd[0]}); give another folder "
                "with --work, or delete it."
            )

    def restore(self, found: Checkpoint) -> list[str]:
        """Take everything from a checkpoint that `check` has found to be right; return what the user should know."""
        mine = _flat(self.stage.networks) | self._others()
        saved = found.tensors("networks") | found.tensors("others")
        state = found.state()
        with torch.no_grad():
            for name, tensor in mine.items():
                tensor.copy_(saved[name])
            averages = found.tensors("average") if self.averages else {}
            for name, tensor in _flat(self.averages).items():
                tensor.copy_(averages[name])
        if best := found.tensors("best"):
            self._keep({name: _part(best, name) for name in self.averages})
        self.best, self.validation, self.losses = state["best"], state["validation"], state["losses"]
        self.optimiser.load_state_dict(state["optimiser"])
        if self.judge_optimiser is not None:
            self.judge_optimiser.load_state_dict(state["judge_optimiser"])
        if self.accelerator.scaler is not None and "scaler" in state:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        processes, rank = self.accelerator.num_processes, self.accelerator.process_index
        if len(state["random"]) == processes:
            set_random_state(state["random"][rank])
            return []
        seed_all(self.config.seed + found.step, rank)
        return [f"{len(state['random'])} process(es) began this run and {processes} go on: its batches differ now."]

    def _keep(self, states: dict[str, dict[str, torch.Tensor]]) -> None:
        for name, average in self.averages.items():
            if name not in self.best_networks:
                self.best_networks[name] = moving_average(average)
            self.best_networks[name].load_state_dict(states[name])

    def _others(self) -> dict[str, torch.Tensor]:
        """What is trained or counted outside the networks: the discriminator, a temperature, running means."""
        known = {id(tensor) for network in self.stage.networks.values() for tensor in _named(network).values()}
        trained = {id(parameter) for parameter in (*self.trained, *self.judges)}
        others = {}
        for owner, module in (("objective", self.stage.objective), ("adversary", self.stage.adversary)):
            for name, tensor in (_named(module) if module is not None else {}).items():
                counted = not isinstance(tensor, nn.Parameter) or id(tensor) in trained
                if counted and id(tensor) not in known:
                    known.add(id(tensor))
                    others[f"{owner}/{name}"] = tensor
        return others


def _named(module: nn.Module | OSMNetModel) -> dict[str, torch.Tensor]:
    return dict(module.named_parameters()) | dict(module.named_buffers())


def _flat(networks: dict[str, OSMNetModel]) -> dict[str, torch.Tensor]:
    """The tensors of several networks, `NETWORK/TENSOR` each."""
    return {
        f"{name}/{key}": tensor for name, network in networks.items() for key, tensor in network.state_dict().items()
    }


def _part(tensors: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(f"{name}/"): tensor for key, tensor in tensors.items() if key.startswith(f"{name}/")}


def _settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as JSON would give them back, the weights of losses one by one."""
    weights = settings.get("weights", {})
    flat = {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}
    return {**flat, "weights": None, **{f"weights.{loss}": weight for loss, weight in weights.items()}}
