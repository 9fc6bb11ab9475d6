"""The training loop: steps, evaluations and checkpoints; a resumed run is the uninterrupted one."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from rich.console import Console

from sharpose.errors import CheckpointError, ConfigError, InputError, counted
from sharpose.model import SHaRPose
from sharpose.runtime.messages import StopRequest
from sharpose.training.checkpoint import RunFolder, TrainingState, WeightAverage, refuse_broken_weights, take_rank_state
from sharpose.training.data.loader import Batch, CropLoader
from sharpose.training.data.sample import PoseDataset
from sharpose.training.distributed import Ranks
from sharpose.training.logs import JsonLinesLog, RunLog, TensorBoardLog, training_progress
from sharpose.training.objectives.guidance import GuidedNetwork
from sharpose.training.recipe import Recipe, parse_recipe
from sharpose.training.step import Stepper, build_objective
from sharpose.training.validation import Validation, Validator, write_sheets

# Keys that may differ when a run is resumed: they change what is written or how fast, not the weights.
_FREE_KEYS = ("evaluate_every", "checkpoint_every", "log_every", "tensorboard", "workers")


class Trainer:
    """A training run.

    Args:
        recipe: The recipe.
        model: The initialised model; trained in place.
        train: People to train on.
        evaluation: People to evaluate on; None for no evaluations, and then no best model.
        folder: The run's folder.
        ranks: The processes.
        say: Called with lines for the user.
        data_folder: What the file of the recipe's guidance is relative to.

    Raises:
        InputError: there are fewer people than a batch.
        ConfigError: the batch can't be shared by the processes, or a teacher can't be used.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: SHaRPose,
        train: PoseDataset,
        evaluation: PoseDataset | None,
        folder: RunFolder,
        ranks: Ranks,
        say: Callable[[str], None],
        data_folder: Path = Path(),
    ) -> None:
        self.recipe, self.ranks, self.folder, self._say = recipe, ranks, folder, say
        config = recipe.model
        batch_size = recipe.batch_of_rank(ranks.world_size)
        self._train = train
        self.loader = self._train_loader(recipe.workers)
        self.validator = None
        if evaluation is not None and recipe.pretrain is None:
            self.validator = Validator(evaluation, config, recipe.data, batch_size, recipe.workers, ranks)
        self.network, self.objective = build_objective(recipe, model, ranks.device, data_folder)
        self.stepper = Stepper(recipe, self.network, self.objective, ranks)
        if self.stepper.teacher is not None:
            say(self.stepper.teacher.description)
        if isinstance(self.network, GuidedNetwork):
            say(self.network.teacher.description)
        self.average = WeightAverage(model, recipe.ema_decay) if recipe.ema_decay is not None else None
        self.steps_per_epoch = max(len(self.loader) // recipe.accumulate, 1)
        self.step = 0  # optimiser steps done
        self.best: float | None = None  # the best evaluation's score
        self._window: dict[str, tuple[float, int]] = {}  # as in `TrainingState`
        self._left_out: set[str] = set()  # what was said of the evaluation's pictures
        # From here on each process draws its own random numbers (drop path); the initial weights are the same for all.
        torch.manual_seed(recipe.seed + 7919 * (ranks.rank + 1))

    def _train_loader(self, workers: int) -> CropLoader:
        recipe, config = self.recipe, self.recipe.model
        return CropLoader(
            self._train,
            recipe.data.augmentation,
            config.crop_size,
            config.heatmap_size if recipe.pretrain is None else None,
            recipe.data.sigma,
            batch_size=recipe.batch_of_rank(self.ranks.world_size),
            seed=recipe.seed,
            workers=workers,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
            max_undecodable=recipe.data.max_undecodable,
            pin_memory=self.ranks.device.type == "cuda",
        )

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.recipe.schedule.epochs * self.steps_per_epoch

    def resume(self) -> None:
        """Resume the folder's run where it stopped.

        Raises `CheckpointError` where its state can't be read or doesn't fit, and `ConfigError` where it was run with
        another recipe or another number of processes.
        """
        state = self.folder.read_state()
        self._check_recipe(state)
        try:
            self.network.load_state_dict(state.network)
            self.stepper.optimizer.load_state_dict(state.optimizer)
            self.stepper.scaler.load_state_dict(state.scaler)
            _check_optimizer(self.stepper.optimizer)
            if self.average is not None and state.average is not None:
                self.average.load_state(state.average["steps"], state.average["weights"])
            own = state.ranks[self.ranks.rank]
            self.loader.load_state(own.loader)
            self.stepper.use_precision(state.precision)
            own.restore(self.ranks.device)
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError, InputError) as error:
            reason = " ".join(str(error).split())[:160]
            raise CheckpointError(f"{self.folder.state}: doesn't fit this recipe's model ({reason})") from error
        self.step, self.best, self._window = state.step, state.best, dict(state.window)

    def run(self, stop: StopRequest, console: Console, *, steps: int | None = None) -> None:
        """Train to the end or until `stop`, which is checked at every step; then save all that `resume` needs.

        Args:
            stop: The user's wish to stop.
            console: Where the progress bar is drawn.
            steps: Number of steps after which to stop earlier; None for no limit.

        Raises:
            TrainingError: the loss or a weight is NaN or infinite.
            SinkError: something can't be written, as on a full disk.
            SourceError: too many pictures can't be decoded.
        """
        try:
            self._run(stop, console, self.total_steps if steps is None else min(self.step + steps, self.total_steps))
        except BaseException:
            self._say_skipped([self.loader.undecodable])  # the other processes may not get here
            raise
        self._say_skipped(self.ranks.gather(self.loader.undecodable))

    def _run(self, stop: StopRequest, console: Console, last: int) -> None:
        """Train up to step `last`; see `run`."""
        recipe = self.recipe
        self._prepare()
        batches = itertools.chain.from_iterable(itertools.repeat(self.loader))
        with (
            contextlib.closing(self._open_logs()) as logs,
            training_progress(
                console, self.total_steps, self.step, recipe.batch_size, shown=self.ranks.is_first
            ) as on_step,
        ):
            while self.step < last:
                epoch = self.step // self.steps_per_epoch
                factor = recipe.schedule.factor(self.step, self.steps_per_epoch)
                values, stopping = self.stepper.step(batches, factor, epoch, stop=bool(stop))
                self.step += 1
                if self.average is not None:
                    self.average.update(self.network.pose)
                for name, value in values.items():
                    total, count = self._window.get(name, (0.0, 0))
                    self._window[name] = total + value, count + 1
                rate = recipe.optimizer.learning_rate * factor
                on_step(self.step, values["loss"], rate)
                if self.step % recipe.log_every == 0 or self.step == self.total_steps:
                    logs.write("train", self.step, self._take_window(rate))
                evaluated = self._evaluate_if_due(logs)
                stopping = stopping or last == self.step < self.total_steps
                every = recipe.checkpoint_every or self.steps_per_epoch
                if evaluated or stopping or self.step % every == 0 or self.step == self.total_steps:
                    self.save()
                if stopping:
                    self._say(f"stopped after step {self.step} of {self.total_steps}; continue with --resume")
                    return

    def _say_skipped(self, undecodable: Sequence[Mapping[str, int]]) -> None:
        """A line for each picture that others took the place of; `undecodable` is every process's, times by message."""
        times: Counter[str] = Counter()
        for part in undecodable:
            times.update(part)
        for message, count in times.items():
            self._say(f"skipped: {message} ({counted(count, 'time')})")

    def _prepare(self) -> None:
        """What a new run finds out before its first step, and a resumed one has in its state."""
        if isinstance(self.network, GuidedNetwork) and self.recipe.guidance is not None and not self.step:
            loader = self._train_loader(workers=0)
            count = -(-self.recipe.guidance.measured_people // (loader.batch_size * self.ranks.world_size))
            images = (batch.images.to(self.ranks.device) for batch in itertools.islice(loader, count))
            self.network.measure(images, self.ranks.mean)
        if self.stepper.precision == "auto":
            self._say(self.stepper.choose_precision(_blank_batch(self.recipe, self.loader.batch_size)))

    def save(self) -> None:
        """Write the state, then the model of the last step (averaged, where weights are).

        Raises `TrainingError` where a weight is NaN or infinite, before anything is written, and `SinkError` where
        something can't be written; the earlier files are untouched.
        """
        refuse_broken_weights(self.network, self.step)
        ranks = self.ranks.gather(take_rank_state(self.loader.state(), self.ranks.device))
        if not self.ranks.is_first:
            return
        state = TrainingState(
            recipe=self.recipe.model_dump(mode="json"),
            step=self.step,
            best=self.best,
            network=dict(self.network.state_dict()),
            optimizer=self.stepper.optimizer.state_dict(),
            scaler=self.stepper.scaler.state_dict(),
            average=self.average.state() if self.average is not None else None,
            window=self._window,
            ranks=tuple(ranks),
            precision=self.stepper.precision,
        )
        self.folder.save_state(state)
        with self._averaged():
            self.folder.save_model(self.folder.last, self.network.pose)

    def _evaluate_if_due(self, logs: RunLog) -> bool:
        epoch, inside = divmod(self.step, self.steps_per_epoch)
        is_due = epoch % self.recipe.evaluate_every == 0 or epoch == self.recipe.schedule.epochs
        if self.validator is None or inside or not is_due:
            return False
        with self._averaged():
            found = self.validator.run(self.network, self.objective, self.stepper.autocast, epoch)
            self._keep(found, epoch, logs)
        return True

    def _keep(self, found: Validation, epoch: int, logs: RunLog) -> None:
        """Log an evaluation, write its sheets, and save the model if it is the best so far.

        A picture that evaluations leave out is named once.
        """
        for message in found.undecodable:
            if message not in self._left_out:
                self._say(f"left out of evaluations: {message}")
                self._left_out.add(message)
        is_best = self.best is None or found.score > self.best
        if is_best:
            self.best = found.score
        if not self.ranks.is_first:
            return
        logs.write("evaluation", self.step, {"epoch": epoch, **found.values})
        self._say(
            f"epoch {epoch}: "
            + ", ".join(f"{name} {value:.4f}" for name, value in found.values.items() if "pck" in name)
            + (" (best)" if is_best else "")
        )
        if found.shown is not None:
            write_sheets(found.shown, self.folder.path / "pictures", f"epoch_{epoch:04d}", self.recipe.model)
        if is_best:
            refuse_broken_weights(self.network, self.step)
            self.folder.save_model(self.folder.best, self.network.pose)

    def _averaged(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext() if self.average is None else self.average.applied_to(self.network.pose)

    def _take_window(self, rate: float) -> dict[str, float]:
        """Means since the last line of the log, each over the steps that have the term."""
        means = {name: total / count for name, (total, count) in self._window.items()}
        self._window = {}
        return {"epoch": (self.step - 1) // self.steps_per_epoch, "learning_rate": rate, **means}

    def _open_logs(self) -> RunLog:
        if not self.ranks.is_first:
            return RunLog([])
        logs: list[JsonLinesLog | TensorBoardLog] = [JsonLinesLog(self.folder.log, self.step)]
        if self.recipe.tensorboard:
            logs.append(TensorBoardLog(self.folder.path / "tensorboard", self.step))
        return RunLog(logs)

    def _check_recipe(self, state: TrainingState) -> None:
        own = self.recipe.model_dump(mode="json")
        # parsed, since an older version's recipe lacks what is off by default
        saved = parse_recipe(state.recipe, source=f"of {self.folder.state}").model_dump(mode="json")
        differing = [key for key in own if key not in _FREE_KEYS and own[key] != saved[key]]
        if differing:
            raise ConfigError(
                f"--resume: the run in {self.folder.path} has another {', '.join(differing)}; resume with its own "
                "recipe, or start a run in another folder with --init"
            )
        if len(state.ranks) != self.ranks.world_size:
            raise ConfigError(
                f"--resume: the run had {counted(len(state.ranks), 'process')}, now there are {self.ranks.world_size}; "
                "start as many, or start a run in another folder with --init"
            )


def _blank_batch(recipe: Recipe, people: int) -> Batch:
    """A batch of the run's size, to measure the time that one takes: noise, without people."""
    config = recipe.model
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (people, *config.crop_size, 3), dtype=torch.uint8, generator=generator)
    size = config.heatmap_size if recipe.pretrain is None else (0, 0)
    joints, ids = config.num_keypoints, torch.zeros(people, dtype=torch.int64)
    keypoints = torch.zeros(people, joints, 3)
    return Batch(images, torch.zeros(people, joints, *size), torch.ones(people, joints), keypoints, ids, ids)


def _check_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Raises `ValueError` for moments that aren't of their weight's shape, which would fail at the first step."""
    for parameter, moments in optimizer.state.items():
        for name, value in moments.items():
            if not isinstance(value, torch.Tensor) or (value.dim() and value.shape != parameter.shape):
                found = list(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
                raise ValueError(f"{name}: expected a tensor {list(parameter.shape)}, got {found}")
