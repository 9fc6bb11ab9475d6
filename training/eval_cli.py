"""`sharpose-eval`: the accuracy of a checkpoint or of a bundle on any engine, and the choice of its gate."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import click

from sharpose.cli import EXIT_REFUSED, interruptible
from sharpose.cli import main as run_command


@dataclass(frozen=True)
class EvalOptions:
    """The options by name, as in `sharpose-eval --help`.

    Raises `click.UsageError` where options exclude one another, or one is missing.
    """

    bundle: Path | None
    checkpoint: Path | None
    config: str | None
    data: str | None
    annotations: Path | None
    images: Path | None
    boxes: str
    ignore_weak: bool
    head_boxes: Path | None
    flip_test: bool
    quality_threshold: float | None
    device: str
    threads: int | None
    limit: int | None
    promise: str | None
    seed: int
    no_plots: bool
    output: Path
    debug: bool

    def __post_init__(self) -> None:
        if self.bundle is not None and self.checkpoint is not None:
            raise click.UsageError("--bundle and --checkpoint exclude each other: give one")
        if self.bundle is None and self.promise is not None and self.checkpoint is None:
            raise click.UsageError("--choose-threshold writes into the bundle: name it with --bundle DIR")
        if self.config is not None and self.checkpoint is None:
            raise click.UsageError("--config goes with --checkpoint")
        if (self.data is None) == (self.annotations is None):
            raise click.UsageError("expected either --data DIR, or --annotations FILE with --images DIR")
        if (self.annotations is None) != (self.images is None):
            raise click.UsageError("--annotations and --images go together")

    @property
    def detections(self) -> Path | None:
        """The file of --boxes; None for labelled boxes."""
        return None if self.boxes == "gt" else Path(self.boxes)


_FILE = click.Path(path_type=Path)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--bundle", type=_FILE, help="Bundle folder to measure, as deployed; default: the one shipped.")
@click.option("--checkpoint", type=_FILE, help="Checkpoint in the released format (.pth), measured in PyTorch.")
@click.option("--config", metavar="NAME|FILE", help="Configuration of the checkpoint; default: read off it.")
@click.option(
    "--data",
    metavar="DIR|SCENE",
    help="Folder of labelled pictures: COCO's layout (annotations/person_keypoints_val2017.json, val2017/), "
    "person_keypoints_val.json with images/, or MPII's; or the built-in scene:people=3,frames=50.",
)
@click.option("--annotations", type=_FILE, help="Labels in COCO's or MPII's format, instead of --data.")
@click.option("--images", type=_FILE, help="Folder of the pictures that --annotations names.")
@click.option(
    "--boxes", default="gt", show_default=True, metavar="gt|FILE", help="Labelled boxes, or a file of COCO detections."
)
@click.option("--ignore-weak", is_flag=True, help="Leave out labels of visibility 1.")
@click.option("--head-boxes", type=_FILE, help="MPII's mpii_gt_val.mat, for official PCKh (needs SciPy).")
@click.option("--flip-test", is_flag=True, help="Average heatmaps with those of the mirrored crop.")
@click.option(
    "--quality-threshold", type=float, help="Predicted quality below which auto refines; default: the model's."
)
@click.option(
    "--device",
    default="cpu",
    show_default=True,
    help="Device to run on, as in sharpose-run; with --checkpoint, PyTorch's.",
)
@click.option(
    "--threads", type=click.IntRange(1, 1024), help="CPU threads of the engine; default: the engine's choice."
)
@click.option(
    "--limit", type=click.IntRange(1, 10**9), help="Number of pictures with people, from the first; default: all."
)
@click.option(
    "--choose-threshold",
    "promise",
    metavar="PROMISE",
    help='Choose the threshold that keeps "ap-loss<=0.2" or "refine-rate<=0.4", and write it into the bundle.',
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the split for --choose-threshold."
)
@click.option("--no-plots", is_flag=True, help="Skip the plots, which need matplotlib.")
@click.option("--output", type=_FILE, required=True, help="Folder for the report, results and plots.")
@click.option("--debug", is_flag=True, help="Traceback of an error.")
def command(**values: Any) -> int:  # noqa: ANN401 (click's; EvalOptions refuses names that it doesn't know)
    """Measure poses on labelled pictures: AP, AR and PCK at refine never, auto and always, and how well quality is
    predicted. Writes report.md, metrics.json, results_MODE.json (COCO) and plots.
    """
    options = EvalOptions(**values)
    from sharpose.training.evaluation.run import run_evaluation

    interruptible()
    return 0 if run_evaluation(options) else EXIT_REFUSED


def main() -> NoReturn:
    """Entry point."""
    run_command(command)
