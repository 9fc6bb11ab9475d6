"""Checkpoints of a run: the last and the best model, the state that resuming needs, and averaged weights (EMA)."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from sharpose.errors import CheckpointError, ConfigError, TrainingError, counted, one_line
from sharpose.files import atomic_file
from sharpose.model import SHaRPose, save_checkpoint
from sharpose.training.recipe import Precision

_FORMAT = 1


@dataclass(frozen=True)
class RankState:
    """The state of one process."""

    loader: dict[str, int]  # position of the data loader
    cpu: Tensor  # torch's random state
    gpu: Tensor | None  # the random state of the GPU, if there is one

    def restore(self, device: torch.device) -> None:
        """Set torch's random states."""
        torch.set_rng_state(self.cpu)
        if self.gpu is not None and device.type == "cuda":
            torch.cuda.set_rng_state(self.gpu, device)


def take_rank_state(loader: Mapping[str, int], device: torch.device) -> RankState:
    """This process's state now."""
    gpu = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return RankState(dict(loader), torch.get_rng_state(), gpu)


@dataclass(frozen=True)
class TrainingState:
    """All that a run needs to resume as if it had never stopped."""

    recipe: dict[str, Any]  # the recipe's plain values
    step: int  # optimiser steps done
    best: float | None  # the best score so far; None before the first evaluation
    network: dict[str, Tensor]  # the model under `pose.`, the auxiliary head under `dense.`
    optimizer: dict[str, Any]  # AdamW's state
    scaler: dict[str, Any]  # the gradient scaler's state; empty without one
    average: dict[str, Any] | None  # state of the averaged weights; None without them
    window: dict[str, tuple[float, int]]  # for the log's next line: a term's sum, and the number of steps that had it
    ranks: tuple[RankState, ...]  # every process's state, in order of rank
    precision: Precision  # of the passes: what `precision: auto` chose


@dataclass(frozen=True)
class RunFolder:
    """The files of a run."""

    path: Path

    @property
    def last(self) -> Path:
        """The model of the last checkpoint, in the released format."""
        return self.path / "last.pth"

    @property
    def best(self) -> Path:
        """The model of the best evaluation, in the released format."""
        return self.path / "best.pth"

    @property
    def state(self) -> Path:
        """The state that `--resume` reads."""
        return self.path / "training_state.pth"

    @property
    def log(self) -> Path:
        """The log, JSON Lines."""
        return self.path / "train.jsonl"

    def check(self, *, resume: bool) -> None:
        """Raise `ConfigError` where it can't be made, or holds a run already (without `resume`) or none (with it)."""
        if resume and not self.state.is_file():
            raise ConfigError(f"--resume: expected a run in {self.path}, found no {self.state.name}")
        if not resume and (self.state.exists() or self.log.exists()):
            raise ConfigError(f"--work-dir {self.path}: holds a run already; give another folder, or --resume")
        above = next(folder for folder in (self.path, *self.path.absolute().parents) if folder.exists())
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            what = "can't be written into" if above.is_dir() else "is no folder"
            raise ConfigError(f"--work-dir {self.path}: can't be made: {above} {what}")

    def make(self) -> None:
        """Make the folder. Raises `ConfigError` where it can't be made."""
        try:
            (self.path / "pictures").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--work-dir {self.path}: can't be made ({error.strerror})") from error

    def save_model(self, path: Path, model: SHaRPose) -> None:
        """Write a model in the released format, whole or not at all. Raises `SinkError` where that fails."""
        with atomic_file(path) as temporary:
            save_checkpoint(temporary, model)

    def save_state(self, state: TrainingState) -> None:
        """Write the state, whole or not at all; errors as `save_model`."""
        ranks = [dict(vars(rank)) for rank in state.ranks]
        content = {"format": _FORMAT, **vars(state), "recipe": json.dumps(state.recipe), "ranks": ranks}
        with atomic_file(self.state) as temporary:
            torch.save(content, temporary)

    def read_state(self) -> TrainingState:
        """The state of a run that stopped; nothing in the file is executed.

        Raises `CheckpointError` where it can't be read, isn't whole, or another version wrote it.
        """
        try:
            content = torch.load(self.state, map_location="cpu", weights_only=True)
        except OSError as error:
            raise CheckpointError(f"{self.state}: can't be read ({one_line(error)[:160]})") from error
        except Exception as error:  # a damaged file breaks torch's reader in many ways, IndexError too
            reason = " ".join(str(error).split())[:160] or type(error).__name__
            raise CheckpointError(f"{self.state}: not a readable training state ({reason})") from error
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise CheckpointError(f"{self.state}: expected a training state of format {_FORMAT}; start the run again")
        try:
            recipe = json.loads(content["recipe"])
            values = {"precision": recipe.get("precision")} | content  # older versions noted it in the recipe alone
            values = {key: values[key] for key in TrainingState.__dataclass_fields__}
            window = values["window"]
            if "steps" in window:  # older versions counted the steps of all terms together
                window = {name: (total, int(window["steps"])) for name, total in window.items() if name != "steps"}
            ranks = tuple(RankState(**rank) for rank in content["ranks"])
            state = TrainingState(**values | {"recipe": recipe, "ranks": ranks, "window": window})
            wrong = _wrong_values(state)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            reason = " ".join(str(error).split())[:160]
            raise CheckpointError(f"{self.state}: not a whole training state ({reason})") from error
        if wrong:
            raise CheckpointError(f"{self.state}: not a whole training state: unexpected {', '.join(wrong)}")
        return state


def _wrong_values(state: TrainingState) -> list[str]:
    """Names of the values that no run writes so."""

    def tensors(value: object) -> bool:
        return isinstance(value, dict) and all(type(k) is str and isinstance(v, Tensor) for k, v in value.items())

    def numbers(value: object) -> bool:
        return isinstance(value, dict) and all(type(item) in (int, float) for item in value.values())

    def sums(value: object) -> bool:
        pairs = value.values() if isinstance(value, dict) else ()
        right = all(isinstance(pair, tuple) and [type(item) for item in pair] == [float, int] for pair in pairs)
        return isinstance(value, dict) and right and all(count > 0 for _, count in pairs)

    average = state.average
    fits = {
        "recipe": isinstance(state.recipe, dict),
        "step": type(state.step) is int and state.step >= 0,
        "best": state.best is None or type(state.best) is float,
        "network": tensors(state.network),
        "optimizer": isinstance(state.optimizer, dict),
        "scaler": isinstance(state.scaler, dict),
        "average": average is None or (type(average["steps"]) is int and tensors(average["weights"])),
        "window": sums(state.window),
        "ranks": all(numbers(rank.loader) and isinstance(rank.cpu, Tensor) for rank in state.ranks),
        "precision": state.precision in get_args(Precision),
    }
    return [name for name, is_right in fits.items() if not is_right]


def refuse_broken_weights(model: nn.Module, step: int) -> None:
    """Raise `TrainingError` where a weight is NaN or infinite, before it replaces a good checkpoint."""
    broken = [name for name, value in model.named_parameters() if not torch.isfinite(value).all()]
    if broken:
        raise TrainingError(
            f"step {step}: NaN or infinity in {counted(len(broken), 'weight')} ({broken[0]} …); the last checkpoint is "
            "untouched: lower optimizer.learning_rate or set optimizer.gradient_clip, then --resume"
        )


class WeightAverage:
    """The exponential moving average (EMA) of a model's weights over its steps.

    Args:
        model: The model; its present weights are the start.
        decay: Share of the average that stays at a step (0.9998 remembers some 5,000 steps). In the first steps less
            stays, `(1 + steps) / (10 + steps)`, so that the random start is soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.weights: dict[str, Tensor] = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Add the weights after a step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, value in model.state_dict().items():
            self.weights[name].lerp_(value, 1 - decay)

    @contextlib.contextmanager
    def applied_to(self, model: nn.Module) -> Iterator[None]:
        """Give the model the averaged weights while the block runs, and its own again afterwards."""
        own = {name: value.detach().clone() for name, value in model.state_dict().items()}
        model.load_state_dict(self.weights)
        try:
            yield
        finally:
            model.load_state_dict(own)

    def state(self) -> dict[str, object]:
        """The values that `load_state` takes."""
        return {"steps": self.steps, "weights": self.weights}

    def load_state(self, steps: int, weights: Mapping[str, Tensor]) -> None:
        """Continue from a `state`."""
        self.steps = steps
        for name, value in weights.items():
            self.weights[name].copy_(value)
