"""One training step: forward and backward passes of its batches, then the optimiser; and what a recipe minimises."""

from __future__ import annotations

import contextlib
import inspect
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sharpose.errors import TrainingError
from sharpose.model.stages import SHaRPose
from sharpose.training.data.loader import Batch
from sharpose.training.distributed import Ranks
from sharpose.training.objectives.cpu_operators import use_cpu_operators
from sharpose.training.objectives.distillation import Distillation
from sharpose.training.objectives.guidance import GuidanceTeacher, GuidedNetwork
from sharpose.training.objectives.mae import MaskedAutoencoder, mae_objective
from sharpose.training.objectives.network import PoseNetwork, TrainedNetwork, recompute_blocks, set_drop_path
from sharpose.training.objectives.pose import PoseObjective
from sharpose.training.optimizer import MuonAdamW, build_optimizer, set_learning_rate
from sharpose.training.recipe import Precision, Recipe

Objective = Callable[[Any, Tensor, Tensor, int], dict[str, Tensor]]
"""Computes a batch's loss, from the network's output, targets, weights and the number of finished epochs.

Returns scalars by name: `loss` is what to minimise, the others are for the log.
"""


def build_objective(
    recipe: Recipe, model: SHaRPose, device: torch.device, data_folder: Path = Path()
) -> tuple[TrainedNetwork, Objective]:
    """The network around a model, on its device and in training mode, and its loss.

    Raises `ConfigError` where the recipe's guidance can't be used; its file is relative to `data_folder`.
    """
    set_drop_path(model, recipe.drop_path)
    if device.type == "cpu":
        use_cpu_operators(model)
    if recipe.gradient_checkpointing:
        recompute_blocks(model)
    if recipe.pretrain is not None:
        return MaskedAutoencoder(model, recipe.pretrain).to(device).train(), mae_objective
    loss, guidance, epochs = recipe.loss, recipe.guidance, recipe.schedule.epochs
    dense, from_epoch, share = loss.dense > 0, loss.fine_from_epoch, loss.fine_share
    if guidance is None:
        network = PoseNetwork(model, dense=dense, fine_from_epoch=from_epoch, fine_share=share)
    else:
        teacher = GuidanceTeacher(guidance, data_folder / guidance.onnx, model.config, device)
        network = GuidedNetwork(model, teacher, epochs, dense=dense, fine_from_epoch=from_epoch, fine_share=share)
    return network.to(device).train(), PoseObjective(loss, recipe.model, device, guidance, epochs)


_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_TIMED = 3  # rounds in which `precision: auto` times both precisions, after one that isn't counted


class Stepper:
    """The network with its optimiser, mixed precision, and the other processes.

    Args:
        recipe: The run's.
        network: The network, on its device.
        objective: The loss.
        ranks: The processes; gradients are averaged over them.

    Raises:
        ConfigError: the recipe's teacher can't be used.
    """

    def __init__(self, recipe: Recipe, network: TrainedNetwork, objective: Objective, ranks: Ranks) -> None:
        self._recipe = recipe
        self._network = network
        self._objective = objective
        self._ranks = ranks
        self._dtype: torch.dtype | None = None
        self.teacher = None
        if recipe.teacher is not None:
            self.teacher = Distillation(recipe.teacher, recipe.model, recipe.data.sigma, ranks.device)
        if recipe.compile:
            network.compile_stages()
        self._wrapped: nn.Module = network if ranks.world_size == 1 else _distributed(network, ranks)
        self.optimizer = build_optimizer(network.trained_parameters(), recipe.model.depth, recipe.optimizer)
        # scales the loss for fp16; does nothing otherwise
        self.scaler = torch.amp.GradScaler(ranks.device.type, enabled=recipe.precision == "fp16")
        self.precision = recipe.precision
        if recipe.precision != "auto":
            self.use_precision(recipe.precision)

    def use_precision(self, precision: Precision) -> None:
        """Take the next steps in fp32, bf16 or fp16."""
        self.precision, self._dtype = precision, _DTYPES.get(precision)
        if isinstance(self.optimizer, MuonAdamW):
            self.optimizer.dtype = torch.bfloat16 if precision == "bf16" else torch.float32

    def choose_precision(self, batch: Batch) -> str:
        """Time forward and backward passes in fp32 and in bf16, use the faster one, and say so in a line.

        Several processes choose together. Weights and random numbers stay as they are.
        """
        times: dict[Precision, list[float]] = {"fp32": [], "bf16": []}
        batch = batch.to(self._ranks.device)
        gpus = [self._ranks.device] if self._ranks.device.type == "cuda" else []
        with torch.random.fork_rng(devices=gpus):
            for _ in range(_TIMED + 1):
                for precision, seconds in times.items():
                    self.use_precision(precision)
                    started = time.perf_counter()
                    with self.autocast():
                        output = self._wrapped(batch.images, batch.change)
                    self._objective(output, batch.targets, batch.weights, 0)["loss"].backward()
                    if self._ranks.device.type == "cuda":
                        torch.cuda.synchronize(self._ranks.device)
                    seconds.append(time.perf_counter() - started)
        self.optimizer.zero_grad(set_to_none=True)
        best = torch.tensor([min(seconds[1:]) for seconds in times.values()], device=self._ranks.device)
        fp32, bf16 = self._ranks.mean(best).tolist()
        self.use_precision("bf16" if bf16 < fp32 else "fp32")
        return (
            f"precision auto: forward and backward pass of {len(batch)} people {fp32:.3g} s in fp32, {bf16:.3g} s in "
            f"bf16: {self.precision}"
        )

    def autocast(self) -> AbstractContextManager[object]:
        """The context that the network runs in: mixed precision if the recipe wants it."""
        if self._dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self._ranks.device.type, dtype=self._dtype)

    def step(self, batches: Iterator[Batch], factor: float, epoch: int, *, stop: bool) -> tuple[dict[str, float], bool]:
        """Learn from the next `accumulate` batches.

        Args:
            batches: Where they are taken from.
            factor: Multiplies the learning rates.
            epoch: Number of finished epochs.
            stop: Whether this process was asked to stop.

        Returns:
            The loss's terms, means over batches and processes (and `gradient_norm` where gradients are clipped, but for
            a step of fp16 that is left out because it overflowed); and
            whether any process was asked to stop.

        Raises:
            TrainingError: the loss is NaN or infinite; no process updated its weights.
        """
        recipe = self._recipe
        self._network.begin_step(epoch)
        set_learning_rate(self.optimizer, factor)
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        for number in range(recipe.accumulate):
            batch = next(batches).to(self._ranks.device, non_blocking=True)
            with self._synchronised(last=number == recipe.accumulate - 1):
                with self.autocast():
                    output = self._wrapped(batch.images, batch.change)
                terms = self._objective(output, batch.targets, batch.weights, epoch)
                if self.teacher is not None:
                    terms = self.teacher.add_loss(terms, output, batch.images)
                self.scaler.scale(terms["loss"] / recipe.accumulate).backward()
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value.detach() / recipe.accumulate
        shared = torch.stack([*sums.values(), torch.tensor(float(stop), device=self._ranks.device)])
        *means, stopping = self._ranks.mean(shared).tolist()
        values = dict(zip(sums, means, strict=True))
        self._refuse_broken(values, batch)
        if recipe.optimizer.gradient_clip is not None:
            self.scaler.unscale_(self.optimizer)
            norm = nn.utils.clip_grad_norm_(self._network.parameters(), recipe.optimizer.gradient_clip)
            if torch.isfinite(norm):  # fp16's scaler leaves out a step whose scaled gradients overflow
                values["gradient_norm"] = float(norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return values, stopping > 0

    def _synchronised(self, *, last: bool) -> AbstractContextManager[object]:
        """Exchange gradients once a step, with the last batch."""
        if last or not isinstance(self._wrapped, DistributedDataParallel):
            return contextlib.nullcontext()
        return self._wrapped.no_sync()

    def _refuse_broken(self, values: dict[str, float], batch: Batch) -> None:
        if all(torch.isfinite(torch.tensor(value)) for value in values.values()):
            return
        names = ", ".join(f"{name} {value}" for name, value in values.items())
        people = batch.annotation_ids[:4].tolist()
        raise TrainingError(
            f"the loss is not a finite number ({names}; last batch: annotations {people} …); "
            "the last checkpoint is untouched: lower optimizer.learning_rate, set optimizer.gradient_clip, or use "
            "precision bf16 or fp32, then --resume"
        )


def _distributed(network: nn.Module, ranks: Ranks) -> DistributedDataParallel:
    """Buffers here are constants, the same in every process: they aren't sent at every step."""
    devices = [ranks.device] if ranks.device.type == "cuda" else None
    # torch 2.13 has a new name for it and warns of the old one
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters:
        return DistributedDataParallel(network, device_ids=devices, forward_sync_buffers=False)
    return DistributedDataParallel(network, device_ids=devices, broadcast_buffers=False)
