"""`sharpose-train`: a recipe and labelled pictures in, a checkpoint out."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from sharpose.cli import FILE, SectionedCommand, Terminated, Whole, complete_files, complete_words, option
from sharpose.cli import main as run_command
from sharpose.errors import ConfigError, TrainingError, counted, require_packages
from sharpose.files import found_at

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.shell_completion import CompletionItem

    from sharpose.model import SHaRPose
    from sharpose.training.recipe import Recipe


@dataclass(frozen=True)
class TrainOptions:
    """The options by name; `sharpose-train --help` says what each is."""

    recipe_name: str | None
    changes: tuple[str, ...]
    data_folder: Path | None
    work_dir: Path | None
    init_file: Path | None
    resume: bool
    steps: int | None
    device: str | None
    list_them: bool
    debug: bool

    def __post_init__(self) -> None:
        given = {
            "CONFIG": self.recipe_name,
            "--set": self.changes,
            "--data": self.data_folder,
            "--work-dir": self.work_dir,
            "--init": self.init_file,
            "--resume": self.resume,
            "--steps": self.steps,
            "--device": self.device,
        }
        if self.list_them and (found := next((name for name, value in given.items() if value), None)):
            raise click.UsageError(f"--list and {found} exclude each other: give --list alone")

    def folders(self) -> tuple[Path, Path]:
        """--data and --work-dir; raises `click.UsageError` where one is missing or options exclude each other."""
        if self.data_folder is None or self.work_dir is None:
            raise click.UsageError("expected --data DIR and --work-dir DIR")
        if not self.data_folder.is_dir():
            raise click.UsageError(f"--data {self.data_folder}: expected a folder, found {found_at(self.data_folder)}")
        if self.resume and self.init_file is not None:
            raise click.UsageError("--resume and --init exclude each other: a resumed run has its weights")
        return self.data_folder, self.work_dir


def _complete_recipe(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    names = [
        file.name.removesuffix(".yaml") for file in resources.files("sharpose.configs").joinpath("recipes").iterdir()
    ]
    found = [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]
    return found or complete_files(ctx, parameter, incomplete)


_RECIPE, _RUN = "Recipe", "Run"


@click.command(
    cls=SectionedCommand,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    examples=[
        "sharpose-train --list",
        "sharpose-train sharpose_small_coco_256x192 --data COCO_DIR --work-dir runs/small",
    ],
)
@click.argument("recipe_name", metavar="CONFIG", required=False, shell_complete=_complete_recipe)
@option(
    _RECIPE,
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change of the recipe, such as optimizer.learning_rate=1e-4; may be repeated.",
)
@option(
    _RUN, "--data", "data_folder", type=FILE, metavar="DIR", help="Folder that the recipe's data paths are relative to."
)
@option(_RUN, "--work-dir", type=FILE, metavar="DIR", help="Folder for checkpoints, logs and pictures.")
@option(
    _RUN,
    "--init",
    "init_file",
    type=FILE,
    metavar="FILE",
    help="Initial weights: a SHaRPose, MAE or ViTPose checkpoint, or a bundle.",
)
@option(_RUN, "--resume", is_flag=True, help="Resume the run in --work-dir.")
@option(
    _RUN,
    "--steps",
    type=Whole(1, 10**9),
    help="Stop after so many steps, for a trial; --resume continues. Default: the whole recipe.",
)
@option(
    _RUN,
    "--device",
    shell_complete=complete_words(lambda: ("cpu", "cuda")),
    metavar="DEVICE",
    help="Device to train on: cpu, cuda or cuda:INDEX; default: a GPU if there is one.",
)
@option(_RECIPE, "--list", "list_them", is_flag=True, help="List the recipes that come with the package.")
@option("Help", "--debug", is_flag=True, help="Traceback of an error.")
def command(**values: Any) -> int:  # noqa: ANN401 (click's; TrainOptions refuses names that it doesn't know)
    """Train the model of CONFIG: a recipe's name (--list) or YAML file.

    Several GPUs or machines: torchrun --nproc-per-node N --no-python sharpose-train … ; the recipe's batch_size is
    that of all processes together, so the recipe stays the same.
    """
    options = TrainOptions(**values)
    require_packages("sharpose-train", ["torch", "yaml"], "train", ConfigError)
    from sharpose.training.recipe import list_recipes, load_recipe

    if options.list_them:
        click.echo("\n".join(list_recipes()))
        return 0
    if options.recipe_name is None:
        raise click.UsageError(f"expected CONFIG: a recipe's file, or one of {', '.join(list_recipes())}")
    options.folders()
    return _train(load_recipe(options.recipe_name, options.changes), options)


def _train(recipe: Recipe, options: TrainOptions) -> int:
    import torch
    from rich.console import Console

    from sharpose.model import SHaRPose
    from sharpose.runtime.messages import stop_on_signals
    from sharpose.training.checkpoint import RunFolder
    from sharpose.training.distributed import join_ranks
    from sharpose.training.logs import check_tensorboard
    from sharpose.training.loop import Trainer
    from sharpose.training.recipe import evaluation_dataset, training_dataset, write_recipe

    data_folder, work_dir = options.folders()
    console = Console(stderr=True)
    with join_ranks(options.device) as ranks:

        def say(line: str) -> None:
            if ranks.is_first:
                console.print(line, highlight=False, markup=False, soft_wrap=True)

        folder = RunFolder(work_dir)
        if ranks.is_first:
            folder.check(resume=options.resume)
        if recipe.tensorboard:
            check_tensorboard()
        skeleton = recipe.model.skeleton
        train = training_dataset(recipe.data, data_folder, skeleton, recipe.seed, say)
        evaluation = evaluation_dataset(recipe.data, data_folder, skeleton, say)
        torch.manual_seed(recipe.seed)
        model = SHaRPose(recipe.model)
        if not options.resume:
            _initialise(model, recipe, options.init_file, say)
        trainer = Trainer(recipe, model, train, evaluation, folder, ranks, say, data_folder)
        if options.resume:
            trainer.resume()
            say(f"resuming after step {trainer.step} of {trainer.total_steps}")
        elif ranks.is_first:
            folder.make()
            write_recipe(recipe, work_dir / "recipe.yaml")
        say(
            f"{recipe.model.name}: {counted(len(train), 'person')}, {counted(recipe.schedule.epochs, 'epoch')} of "
            f"{counted(trainer.steps_per_epoch, 'step')}, batches of {recipe.batch_size}, on "
            f"{f'{ranks.world_size} x ' if ranks.world_size > 1 else ''}{ranks.device} in {recipe.precision}"
        )
        if recipe.pretrain is not None:
            say("pre-training without labels: no evaluations; train on from it with --init last.pth")
        elif evaluation is None:
            say("the recipe has no data.evaluation: no evaluations, and no best.pth")
        with stop_on_signals() as stop:
            try:
                trainer.run(stop, console, steps=options.steps)
            except (RuntimeError, TrainingError) as error:
                # Where a signal to the process group ends the workers too (macOS), the step at hand can't be finished.
                if stop.signal is None or "DataLoader worker" not in str(error):
                    raise
                raise KeyboardInterrupt if stop.signal == signal.SIGINT else Terminated(stop.signal) from error
        if not stop:
            say(f"wrote {folder.last}" + (f" and {folder.best}" if folder.best.is_file() else ""))
        return stop.exit_code


def _initialise(model: SHaRPose, recipe: Recipe, init_file: Path | None, say: Callable[[str], None]) -> None:
    from sharpose.training.init import init_from_file, scale_heatmaps, start_with_dct, start_with_sines

    if recipe.start.sine_positions:
        start_with_sines(model)
    if recipe.start.dct_patches:
        start_with_dct(model)
    if init_file is not None:
        for line in init_from_file(model, init_file).lines():
            say(line)
        scale_heatmaps(model, recipe.start.init_head_factor)
    elif recipe.start.init_head_factor != 1:
        raise ConfigError(
            f"start.init_head_factor is {recipe.start.init_head_factor:g}, which is for the heatmaps of --init; give "
            "--init FILE, or leave it at 1"
        )


def main() -> NoReturn:
    """Entry point."""
    run_command(command)


if __name__ == "__main__":  # torchrun -m sharpose.training.train_cli
    main()
