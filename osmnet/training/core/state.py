"""Everything a checkpoint stores: networks, EMA, best weights, optimizers."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from osmnet.loading.fingerprint import weights_fingerprint
from osmnet.loading.model import OSMNetModel
from osmnet.training.core.checkpoint import TENSORS, Checkpoint, seed_all
from osmnet.training.core.config import FREE_SETTINGS, StageConfig
from osmnet.training.core.stage import Stage
from osmnet.utils.checks import reason
from osmnet.utils.files import why

DISCRIMINATOR_OPTIMIZER = "discriminator_optimizer.bin"


class WeightedSum(nn.Module):
    """Weighted sum of a module's losses.

    Args:
        losses (`nn.Module`): An objective or an adversary.
        weights (`dict[str, float]`, *optional*): By loss, 0 if missing. Not given: 1 each.
        autocast (`bool`): False computes in float32 at any precision of the networks.
    """

    def __init__(self, losses: nn.Module, weights: dict[str, float] | None = None, autocast: bool = True):
        super().__init__()
        self.losses, self.weights, self.autocast = losses, weights, autocast

    def forward(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the sum and the detached losses."""
        device = next(iter(batch.values())).device.type
        with nullcontext() if self.autocast else torch.autocast(device, enabled=False):
            losses = self.losses(batch)
            weights = dict.fromkeys(losses, 1.0) if self.weights is None else self.weights
            counted = [weights[name] * loss for name, loss in losses.items() if weights.get(name)]
            if not counted:
                raise ValueError(f"None of the losses {', '.join(losses)} has a weight above 0; set weights.LOSS.")
            # Only the sum keeps its graph: DDP would wait for a loss that is returned and not used.
            return torch.stack(counted).sum(), {name: loss.detach() for name, loss in losses.items()}


class Ema(AveragedModel):
    """Exponential moving average of weights; buffers are copied.

    The decay at step t is at most (t + 1) / (t + 10).

    Args:
        network (`OSMNetModel`): Copied, in evaluation mode.
        decay (`float`): Decay at large t.
    """

    def __init__(self, network: OSMNetModel, decay: float):
        super().__init__(
            cast(nn.Module, network), multi_avg_fn=lambda *lists: get_ema_multi_avg_fn(self.decay)(*lists)
        )
        self.final_decay, self.decay = decay, 0.0
        self.n_averaged.fill_(1)  # at 0, the first update would copy the network
        self.eval().requires_grad_(False)

    def update(self, network: OSMNetModel, step: int) -> None:
        """Update after a step, counted from 0."""
        # The early average must forget the initial weights.
        self.decay = min(self.final_decay, (step + 1) / (step + 10))
        self.update_parameters(cast(nn.Module, network))


@contextmanager
def frozen(parameters: list[nn.Parameter]) -> Iterator[None]:
    """Freeze parameters; gradients still flow through them."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


class RunState:
    """The state of a run, wrapped by Accelerate.

    Args:
        stage (`Stage`): The stage to train.
        config (`StageConfig`): Its settings.
        accelerator (`Accelerator`): Device and processes.

    Attributes:
        trained (`list[nn.Parameter]`): Parameters of `optimizer`.
        discriminators (`list[nn.Parameter]`): Parameters of `discriminator_optimizer`.
        averages (`dict[str, Ema]`): Of the networks; in the main process only.
        best_networks (`dict[str, OSMNetModel]`): The averages at the highest score, if there is a score.
        best (`dict`): Their `score`, `step` and `validation`.
        made_for (`dict[str, str]`): The stage's, and the fingerprint of the starting weights.
        validation (`dict[str, float]`): The last one.
        losses (`dict[str, float]`): The last ones logged.
    """

    def __init__(self, stage: Stage, config: StageConfig, accelerator: Accelerator):
        self.stage, self.config, self.accelerator = stage, config, accelerator
        self.best: dict[str, Any] = {}
        self.best_networks: dict[str, OSMNetModel] = {}
        self.validation: dict[str, float] = {}
        self.losses: dict[str, float] = {}

        # 1. Who trains what.
        for network in stage.networks.values():
            network.to(accelerator.device)  # also those that the objective does not hold
        adversary, betas = stage.adversary, (config.beta1, config.beta2)
        in_networks = {id(p) for network in stage.networks.values() for p in network.parameters()}
        own = adversary.parameters() if adversary is not None else ()
        self.discriminators = [p for p in own if p.requires_grad and id(p) not in in_networks]
        to_train = {
            name: network
            for name, network in stage.networks.items()
            if any(p.requires_grad for p in network.parameters())
        }
        start = weights_fingerprint(to_train) if config.init else "none"
        self.made_for = {**stage.made_for, "starting model": start}
        discriminators = {id(p) for p in self.discriminators}
        self.trained = [p for p in stage.objective.parameters() if p.requires_grad and id(p) not in discriminators]
        for module in (*stage.networks.values(), adversary):
            if module is not None:
                module.train()

        # 2. Each module is wrapped while the other's parameters need no gradient: DDP must not wait for them.
        with frozen(self.discriminators):
            self.objective = accelerator.prepare_model(WeightedSum(stage.objective, config.weights))
        self.optimizer = accelerator.prepare_optimizer(
            torch.optim.AdamW(self.trained, config.learning_rate, betas, weight_decay=config.weight_decay)
        )
        self.adversary: nn.Module | None = None
        self.discriminator_optimizer: torch.optim.Optimizer | None = None
        if adversary is not None:
            with frozen(self.trained):
                self.adversary = accelerator.prepare_model(WeightedSum(adversary, autocast=False))
            # Not prepared: one gradient scaler cannot serve two optimizers, and float32 needs none.
            self.discriminator_optimizer = torch.optim.Adam(self.discriminators, config.learning_rate, betas)

        # 3. What is saved beside them.
        self.averages: dict[str, Ema] = {}
        if accelerator.is_main_process:
            self.averages = {name: Ema(network, config.ema) for name, network in stage.networks.items()}
        accelerator.register_save_state_pre_hook(self._write)
        accelerator.register_load_state_pre_hook(self._read)

    @property
    def wrapped(self) -> list[nn.Module]:
        """Modules with synchronised gradients."""
        return [module for module in (self.objective, self.adversary) if module is not None]

    @property
    def averaged(self) -> dict[str, OSMNetModel]:
        """The averages as networks."""
        return {name: cast(OSMNetModel, average.module) for name, average in self.averages.items()}

    @property
    def kept(self) -> dict[str, OSMNetModel]:
        """The best averages, or the last ones."""
        return self.best_networks or self.averaged

    @property
    def progress(self) -> dict[str, Any]:
        """JSON content of a checkpoint."""
        return {"best": self.best, "validation": self.validation, "losses": self.losses}

    def average(self, step: int) -> None:
        """Update the averages."""
        for name, average in self.averages.items():
            average.update(self.stage.networks[name], step)

    def record_validation(self, step: int, validation: dict[str, float]) -> None:
        """Store a validation, and the averages if best."""
        self.validation = {name: float(value) for name, value in validation.items()}
        score = self.validation.get("score", -math.inf)
        if score > self.best.get("score", -math.inf):
            self.best = {"score": score, "step": step, "validation": self.validation}
            self.best_networks = copy.deepcopy(self.averaged)

    def save_networks(self, out: Path) -> None:
        """Save `kept` to `out/NAME`.

        Raises:
            ValueError: If the folder cannot be written.
        """
        for name, network in self.kept.items():
            try:
                network.save_pretrained(out / name)
            except ValueError as error:
                raise ValueError(
                    f"Cannot save {name} to '{out / name}' ({why(error.__cause__ or error)}); free some space (or "
                    "repair the disk) and run the same command again to resume."
                ) from error

    def check(self, found: Checkpoint) -> None:
        """Check that a checkpoint belongs to this run.

        Raises:
            ValueError: If stage, settings or networks differ.
        """

        def refuse(why: str) -> NoReturn:
            raise ValueError(f"The run in '{found.folder.parent}' {why}, or give another folder with --work.")

        if "progress" not in found.about:
            refuse("is of an earlier version of osmnet; finish it with that version")
        before = _settings(found.about.get("settings", {})) | {"stage": found.about.get("stage")}
        now = _settings(dataclasses.asdict(self.config)) | {"stage": self.stage.name}
        for name, value in now.items():
            if name not in FREE_SETTINGS and name in before and before[name] != value:
                refuse(f"has {name}={before[name]}, not {value}; set it alike")
        for name, value in self.made_for.items():
            if found.about.get("made_for", {}).get(name, value) != value:
                refuse(f"belongs to another {name}; delete it to train anew")
        mine = {name: tensor.shape for name, tensor in self._tensors().items()}
        try:
            saved = {name: t.shape for name, t in found.tensors().items() if not name.startswith("best/")}
        except (SafetensorError, OSError, ValueError, MemoryError) as error:
            refuse(f"has tensors in '{found.folder.name}' that cannot be read ({reason(error)}); delete that folder")
        if mine != saved:
            odd = sorted(mine.keys() ^ saved.keys()) or [name for name in mine if mine[name] != saved[name]]
            refuse(f"has networks of another shape ({odd[0]}); delete it")

    def restore(self, found: Checkpoint) -> list[str]:
        """Load a checkpoint that passed `check`; return remarks for the user.

        Raises:
            ValueError: If its states cannot be read or belong to other networks.
        """
        torch.seed()  # a state of no checkpoint: Accelerate does not report random states that it cannot read
        unknown = torch.get_rng_state()
        try:
            self.accelerator.load_state(str(found.folder))
        except Exception as error:  # PyTorch raises almost anything on strange states
            raise ValueError(
                f"The states in '{found.folder}' cannot be restored ({reason(error)}); delete this folder to "
                "resume from the one before it."
            ) from error
        progress = found.about["progress"]
        self.best, self.validation, self.losses = progress["best"], progress["validation"], progress["losses"]
        before, processes = found.about["processes"], self.accelerator.num_processes
        if before != processes:
            seed_all(self.config.seed + found.step, self.accelerator.process_index)
            return [f"this run began with {before} process(es) and resumes with {processes}: its batches differ now."]
        if torch.equal(unknown, torch.get_rng_state()):
            raise ValueError(
                f"The random states in '{found.folder}' cannot be read; delete this folder to resume from the one "
                "before it."
            )
        return []

    # Hooks of `save_state` and `load_state`: our own tensors in place of the wrapped modules'.
    def _write(self, models: list[nn.Module], weights: list[dict], folder: str) -> None:
        weights.clear()
        if not self.accelerator.is_main_process:
            return
        weights.append({name: tensor.detach().cpu().contiguous() for name, tensor in self._tensors().items()})
        if self.discriminator_optimizer is not None:
            with Path(folder, DISCRIMINATOR_OPTIMIZER).open("wb") as file:
                torch.save(self.discriminator_optimizer.state_dict(), file)

    def _read(self, models: list[nn.Module], folder: str) -> None:
        models.clear()
        saved = load_file(Path(folder, TENSORS))
        if self.averages and any(name.startswith("best/") for name in saved):
            self.best_networks = copy.deepcopy(self.averaged)
        with torch.no_grad():
            for name, tensor in self._tensors().items():
                tensor.copy_(saved[name])
        if self.discriminator_optimizer is not None:
            file = Path(folder, DISCRIMINATOR_OPTIMIZER)
            self.discriminator_optimizer.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))

    def _tensors(self) -> dict[str, torch.Tensor]:
        groups = {"networks": self.stage.networks, "average": self.averaged, "best": self.best_networks}
        networks = {
            f"{group}/{name}/{key}": tensor
            for group, members in groups.items()
            for name, network in members.items()
            for key, tensor in network.state_dict().items()
        }
        return networks | self._others()

    def _others(self) -> dict[str, torch.Tensor]:
        """Trained parameters and buffers outside the networks."""
        known = {id(tensor) for network in self.stage.networks.values() for tensor in _named(network).values()}
        trained = {id(parameter) for parameter in (*self.trained, *self.discriminators)}
        others = {}
        for owner, module in (("objective", self.stage.objective), ("adversary", self.stage.adversary)):
            for name, tensor in (_named(module) if module is not None else {}).items():
                counted = not isinstance(tensor, nn.Parameter) or id(tensor) in trained
                if counted and id(tensor) not in known:
                    known.add(id(tensor))
                    others[f"others/{owner}/{name}"] = tensor
        return others


def _named(module: nn.Module | OSMNetModel) -> dict[str, torch.Tensor]:
    return dict(module.named_parameters()) | dict(module.named_buffers())


def _settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Flatten settings for comparison with JSON."""
    weights = settings.get("weights", {})
    flat = {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}
    return {**flat, "weights": None, **{f"weights.{loss}": weight for loss, weight in weights.items()}}
