"""The training loop, on Accelerate."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import GradientAccumulationPlugin

from osmnet.training.core.batches import Batch, batches
from osmnet.training.core.checkpoint import (
    Checkpoint,
    newest_checkpoint,
    random_state_kept,
    save_checkpoint,
    seed_all,
    sweep,
)
from osmnet.training.core.config import StageConfig
from osmnet.training.core.log import LOG_EVERY, RunLog, write_config
from osmnet.training.core.processes import Stopped, StopSignals, join_processes, on_main
from osmnet.training.core.stage import Stage
from osmnet.training.core.state import RunState, frozen
from osmnet.utils.files import only_run_in
from osmnet.utils.versions import training_versions

__all__ = ["Stage", "fit"]


def fit(stage: Stage, config: StageConfig, out: Path, work: Path) -> dict[str, float]:
    """Train a stage, or resume it from the newest checkpoint.

    On the same CPU, with as many processes and threads, a resumed run equals an uninterrupted one.

    Args:
        stage (`Stage`): The stage to train.
        config (`StageConfig`): Its settings.
        out (`Path`): Model folder; networks are saved to `out/NAME` at every checkpoint and at the end.
        work (`Path`): Folder of this run alone: `config.yaml`, `log.jsonl`, `tensorboard/`, `samples/`,
            `checkpoint-STEP/`.

    Returns:
        `dict[str, float]`: `step`, the last losses, the last validation (the best, if there is a score) under
        `val/NAME`, and the figures of `stage.finish`; the same in every process.

    Raises:
        ValueError: If `work` holds another run or an active one, a loss is not finite, or something cannot be written.
        Stopped: After SIGTERM or Ctrl-C, once a checkpoint is saved.
    """
    join_processes()
    # Accelerate keeps one state a process; the stage before this one may have had another precision.
    AcceleratorState._reset_state()
    GradientState._reset_state()
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision,
        # As a plugin: a number alone gives way to the launcher's own configuration.
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=config.gradient_accumulation, sync_with_dataloader=False
        ),
        log_with="tensorboard",
        project_dir=str(work),
        # With some loss weights at 0 the others may not reach all of the networks.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    if config.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise ValueError("mixed_precision=fp16 needs a GPU; set it to bf16 or no.")
    return _Run(stage, config, Path(out), Path(work), accelerator).train()


class _Run:
    def __init__(self, stage: Stage, config: StageConfig, out: Path, work: Path, accelerator: Accelerator):
        self.stage, self.config, self.out, self.work, self.accelerator = stage, config, out, work, accelerator
        self.state = RunState(stage, config, accelerator)
        self.signals = StopSignals(accelerator)
        self.about = {
            "stage": stage.name, "settings": dataclasses.asdict(config), "made_for": self.state.made_for,
            "processes": accelerator.num_processes, **training_versions(),
        }  # fmt: skip

    def train(self) -> dict[str, float]:
        with ExitStack() as held:  # a second run would write the same files
            on_main(self.accelerator, lambda: held.enter_context(only_run_in(self.work)))
            return self._train()

    def _train(self) -> dict[str, float]:
        config, rank, world = self.config, self.accelerator.process_index, self.accelerator.num_processes
        # 1. Resume from the newest checkpoint.
        found, remarks = on_main(self.accelerator, self._find)
        seed_all(config.seed, rank)
        done = 0
        if found is not None:
            remarks += [*self.state.restore(found), f"resuming from '{found.folder}'."]
            done = found.step
        on_main(self.accelerator, lambda: write_config(self.work, self.about))
        log = RunLog(self.accelerator, self.stage.name, self.work, done, config.steps)
        try:
            for remark in remarks:
                log.remark(remark)
            # 2. Train.
            with self.signals.recorded():
                stream = batches(
                    self.stage, done, config.steps, config.gradient_accumulation, rank, world, config.workers,
                    pin_memory=self.accelerator.device.type == "cuda",
                )  # fmt: skip
                for step in range(done, config.steps):
                    self._step(step, stream, log)
                    self._after(step + 1, log)
            # 3. Finish and report.
            return on_main(self.accelerator, lambda: self._finish(max(done, config.steps)))
        finally:
            log.close()

    def _find(self) -> tuple[Checkpoint | None, list[str]]:
        for name in self.stage.networks:
            sweep(self.out / name)
        found, remarks = newest_checkpoint(self.work)
        if found is not None:
            self.state.check(found)
        return found, remarks

    def _step(self, step: int, stream: Iterator[Batch], log: RunLog) -> None:
        config, accelerator, state = self.config, self.accelerator, self.state
        self.stage.begin_step(step)
        discriminator_optimizer = state.discriminator_optimizer if self.stage.adversary_active else None
        for _ in range(config.gradient_accumulation):
            batch = {name: value.to(accelerator.device, non_blocking=True) for name, value in next(stream).items()}
            with accelerator.accumulate(*state.wrapped):
                # 1. Gradients of the networks.
                with frozen(state.discriminators):
                    total, losses = state.objective(batch)
                    accelerator.backward(total)
                log.take(losses)
                # 2. Gradients of the discriminator, on the same batch.
                if state.adversary is not None and discriminator_optimizer is not None:
                    with frozen(state.trained):
                        total, losses = state.adversary(batch)
                        (total / config.gradient_accumulation).backward()
                    log.take(losses)
        # 3. Both optimizers, then the average.
        if config.clip_norm:
            accelerator.clip_grad_norm_(state.trained, config.clip_norm)
        for optimizer in (state.optimizer, discriminator_optimizer):
            if optimizer is not None:
                for group in optimizer.param_groups:
                    group["lr"] = config.rate(step)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        state.average(step)
        log.step()

    def _after(self, done: int, log: RunLog) -> None:
        config, last = self.config, done == self.config.steps
        stop_signal = self.signals.any_received()
        validate, draw, save = (
            last or (every > 0 and done % every == 0)
            for every in (config.validate_every, config.sample_every, config.checkpoint_every)
        )
        save = save or stop_signal > 0
        if save or done % LOG_EVERY == 0:
            self.state.losses = log.means()
            on_main(self.accelerator, lambda: _check_finite(self.state.losses, self.stage.name, done))
            log.write(done, {**self.state.losses, "lr": config.rate(done - 1)})
        if validate or draw:
            on_main(self.accelerator, lambda: self._validate(done, validate, draw, log))
        if save:
            about = {**self.about, "progress": self.state.progress}
            save_checkpoint(self.accelerator, self.work, done, about, config.keep_checkpoints)
            on_main(self.accelerator, lambda: self.state.save_networks(self.out))
        if stop_signal and not last:
            raise Stopped(f"stopped after step {done}; run the same command again to resume", stop_signal)

    @torch.no_grad()
    def _validate(self, done: int, validate: bool, draw: bool, log: RunLog) -> None:
        with random_state_kept():
            if validate:
                self.state.record_validation(done, self.stage.validate(self.state.averaged))
                log.write(done, {f"val/{name}": value for name, value in self.state.validation.items()})
            if draw:
                log.pictures(done, self.stage.figures(self.state.averaged))

    @torch.no_grad()
    def _finish(self, done: int) -> dict[str, float]:
        state = self.state
        with random_state_kept():
            figures = self.stage.finish(state.kept)
        state.save_networks(self.out)
        validation = state.best.get("validation", state.validation)
        return {
            "step": state.best.get("step", done),
            **state.losses,
            **{f"val/{name}": value for name, value in validation.items()},
            **figures,
        }


def _check_finite(losses: dict[str, float], stage: str, step: int) -> None:
    for name, value in losses.items():
        if not math.isfinite(value):
            raise ValueError(
                f"The loss {name} of stage {stage} is {value} at step {step}; lower learning_rate or set clip_norm, "
                "and run again (earlier checkpoints are unchanged)."
            )
