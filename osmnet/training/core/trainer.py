"""The training loop of all stages, on Accelerate."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import GradientAccumulationPlugin, gather_object

from osmnet.training.core.batches import Batch, batches
from osmnet.training.core.checkpoint import Checkpoint, newest_checkpoint, save_checkpoint, sweep
from osmnet.training.core.config import StageConfig
from osmnet.training.core.log import LOG_EVERY, RunLog
from osmnet.training.core.processes import Stopped, StopSignals, on_main
from osmnet.training.core.random_state import random_state, random_state_kept, seed_all
from osmnet.training.core.run_provenance import versions, write_config
from osmnet.training.core.stage import Stage
from osmnet.training.core.state import RunState, frozen
from osmnet.utils.files import only_run_in

__all__ = ["Stage", "fit"]

PATIENCE = timedelta(hours=3)  # for which other processes wait while the main one validates


def fit(stage: Stage, config: StageConfig, out: Path, work: Path) -> dict[str, float]:
    """Train a stage, from the newest checkpoint in `work` if there is one.

    A run that was stopped at any moment and goes on ends with the same weights, bit for bit, as one that was not
    (on the same CPU, with as many processes and threads; a GPU's kernels need not repeat themselves).

    Args:
        stage (`Stage`): What to train.
        config (`StageConfig`): How.
        out (`Path`): Model folder; each network goes to `out/NAME`, at every checkpoint and at the end.
        work (`Path`): Folder of this run alone: `config.yaml`, `log.jsonl`, `tensorboard/`, `samples/`,
            `checkpoint-STEP/`.

    Returns:
        `dict[str, float]`: `step`, the last losses, the last validation (the best, if the stage has a score) under
        `val/NAME`, and what `stage.finish` says; the same in every process.

    Raises:
        ValueError: If `work` holds a run of other settings, clips or weights to start from, another run is at work in
            it, a loss is not finite, or something cannot be written.
        Stopped: After SIGTERM or Ctrl-C, once a checkpoint is saved.
    """
    # Accelerate keeps one state a process; the stage before this one may have had another precision.
    AcceleratorState._reset_state()
    GradientState._reset_state()
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision,
        # As a plugin: a number alone gives way to what the launcher's own configuration says.
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=config.gradient_accumulation, sync_with_dataloader=False
        ),
        log_with="tensorboard",
        project_dir=str(work),
        kwargs_handlers=[
            # With some loss weights at 0 the others may not reach all of the networks.
            DistributedDataParallelKwargs(find_unused_parameters=True),
            InitProcessGroupKwargs(timeout=PATIENCE),
        ],
    )
    if config.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise ValueError("mixed_precision=fp16 needs a GPU; set it to bf16 or no.")
    return _Run(stage, config, Path(out), Path(work), accelerator).go()


class _Run:
    """One call of `fit`."""

    def __init__(self, stage: Stage, config: StageConfig, out: Path, work: Path, accelerator: Accelerator):
        self.stage, self.config, self.out, self.work, self.accelerator = stage, config, out, work, accelerator
        self.state = RunState(stage, config, accelerator)
        self.signals = StopSignals(accelerator)
        self.about = {
            "stage": stage.name, "settings": dataclasses.asdict(config), "made_for": self.state.made_for,
            "processes": accelerator.num_processes, **versions(),
        }  # fmt: skip

    def go(self) -> dict[str, float]:
        """Train to the end."""
        with ExitStack() as held:  # a second run would write the same files
            on_main(self.accelerator, lambda: held.enter_context(only_run_in(self.work)))
            return self._go()

    def _go(self) -> dict[str, float]:
        config, rank, world = self.config, self.accelerator.process_index, self.accelerator.num_processes
        found, remarks = on_main(self.accelerator, self._find)
        seed_all(config.seed, rank)
        done = 0
        if found is not None:
            remarks += [*self.state.restore(found), f"going on from '{found.folder}'."]
            done = found.step
        on_main(self.accelerator, lambda: write_config(self.work, self.about))
        log = RunLog(self.accelerator, self.stage.name, self.work, done, config.steps)
        try:
            for remark in remarks:
                log.say(remark)
            with self.signals.noted():
                stream = batches(
                    self.stage, done, config.steps, config.gradient_accumulation, rank, world, config.workers,
                    pin_memory=self.accelerator.device.type == "cuda",
                )  # fmt: skip
                for step in range(done, config.steps):
                    self._step(step, stream, log)
                    self._after(step + 1, log)
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
        """One step of the optimisers."""
        config, accelerator, state = self.config, self.accelerator, self.state
        self.stage.begin_step(step)
        judge_optimiser = state.judge_optimiser if self.stage.adversary_active else None
        for _ in range(config.gradient_accumulation):
            batch = {name: value.to(accelerator.device, non_blocking=True) for name, value in next(stream).items()}
            with accelerator.accumulate(*state.wrapped):
                with frozen(state.judges):
                    total, losses = state.objective(batch)
                    accelerator.backward(total)
                log.take(losses)
                if state.adversary is not None and judge_optimiser is not None:
                    with frozen(state.trained):
                        total, losses = state.adversary(batch)
                        (total / config.gradient_accumulation).backward()
                    log.take(losses)
        if config.clip_norm:
            accelerator.clip_grad_norm_(state.trained, config.clip_norm)
        for optimiser in (state.optimiser, judge_optimiser):
            if optimiser is not None:
                for group in optimiser.param_groups:
                    group["lr"] = config.rate(step)
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
        state.average(step)
        log.step()

    def _after(self, done: int, log: RunLog) -> None:
        """Log, validate, draw and save after a step, where it is time to."""
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
            on_main(self.accelerator, lambda: self._look(done, validate, draw, log))
        if save:
            random = gather_object([random_state()])
            on_main(self.accelerator, lambda: self._save(done, random))
        if stop_signal and not last:
            raise Stopped(f"stopped after step {done}; run the same command again to go on", stop_signal)

    @torch.no_grad()
    def _look(self, done: int, validate: bool, draw: bool, log: RunLog) -> None:
        with random_state_kept():
            if validate:
                self.state.judge(done, self.stage.validate(self.state.averages))
                log.write(done, {f"val/{name}": value for name, value in self.state.validation.items()})
            if draw:
                log.pictures(done, self.stage.figures(self.state.averages))

    def _save(self, done: int, random: list[dict[str, Any]]) -> None:
        save_checkpoint(self.work, done, self.about, *self.state.contents(random), keep=self.config.keep_checkpoints)
        self.state.save_networks(self.out)

    @torch.no_grad()
    def _finish(self, done: int) -> dict[str, float]:
        """Let the stage do what is left, save the networks, and report."""
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
                "and run again (earlier checkpoints are as they were)."
            )
