"""`sharpose-eval`: the accuracy of a checkpoint or of a bundle on any engine, and the choice of its gate."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import click

from sharpose.cli import (
    FILE,
    Number,
    SectionedCommand,
    Threads,
    Whole,
    complete_configurations,
    complete_devices,
    interruptible,
    option,
)
from sharpose.cli import main as run_command
from sharpose.engines.precision import PRECISIONS, PrecisionChoice


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
    alpha: float | None
    device: str
    precision: PrecisionChoice
    threads: int | None
    limit: int | None
    promise: str | None
    calibrate_quality: Path | None
    calibrate_scores: Path | None
    seed: int | None
    no_plots: bool
    output: Path
    overwrite: bool
    debug: bool

    def __post_init__(self) -> None:
        if self.bundle is not None and self.checkpoint is not None:
            raise click.UsageError("--bundle and --checkpoint exclude each other: give one")
        if self.bundle is None and self.promise is not None and self.checkpoint is None:
            raise click.UsageError("--choose-threshold writes into the bundle: name it with --bundle DIR")
        if self.calibrate_quality is not None and self.checkpoint is None:
            raise click.UsageError("--calibrate-quality changes a checkpoint: name it with --checkpoint FILE")
        if self.calibrate_quality is not None and self.flip_test:
            raise click.UsageError("--calibrate-quality is for single passes: leave --flip-test out")
        if self.calibrate_quality is not None and self.detections is not None:
            raise click.UsageError("--calibrate-quality needs labelled boxes: leave --boxes out")
        if self.promise is not None and self.flip_test:
            raise click.UsageError("--choose-threshold is for single passes, as they are gated: leave --flip-test out")
        fits = {
            "--choose-threshold": self.promise,
            "--calibrate-quality": self.calibrate_quality,
            "--calibrate-scores": self.calibrate_scores,
        }
        if self.calibrate_scores is not None:
            if self.flip_test:
                raise click.UsageError("--calibrate-scores is for single passes: leave --flip-test out")
            if self.detections is not None:
                raise click.UsageError("--calibrate-scores needs labelled boxes: leave --boxes out")
            if other := next((name for name in list(fits)[:2] if fits[name] is not None), None):
                raise click.UsageError(f"--calibrate-scores and {other} exclude each other: one after the other")
        if not any(fit is not None for fit in fits.values()) and self.seed is not None:
            raise click.UsageError(f"--seed is for {', '.join(fits)}: none is given")
        if self.promise is not None and self.quality_threshold is not None:
            raise click.UsageError("--quality-threshold and --choose-threshold exclude each other: give one")
        if self.alpha is not None and (fit := next((name for name, value in fits.items() if value is not None), None)):
            raise click.UsageError(f"{fit} is for the model's own alpha: leave --alpha out")
        if self.threads is not None and self.checkpoint is None and self.device.startswith("tensorrt"):
            raise click.UsageError(f"--threads does nothing on --device {self.device}: leave it out")
        if self.precision != "auto" and self.checkpoint is not None:
            raise click.UsageError("--precision is for bundles: a checkpoint is measured in float32; export it first")
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


_MODEL, _DATA, _MEASURE, _REPORT = "Model", "Labelled pictures", "What is measured", "Report"


@click.command(
    cls=SectionedCommand,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    examples=[
        "sharpose-eval --data scene --output report",
        "sharpose-eval --bundle bundle --data COCO_DIR --output report",
        "sharpose-eval --checkpoint runs/small/best.pth --data COCO_DIR --output report",
    ],
)
@option(
    _MODEL,
    "--bundle",
    type=FILE,
    metavar="DIR",
    help="Bundle folder to measure, as deployed; default: the one shipped.",
)
@option(
    _MODEL,
    "--checkpoint",
    type=FILE,
    metavar="FILE",
    help="Checkpoint, measured in PyTorch: .pth in the released format, .safetensors, or a bundle's folder.",
)
@option(
    _MODEL,
    "--config",
    shell_complete=complete_configurations,
    metavar="NAME|FILE",
    help="Configuration of the checkpoint; default: read off it.",
)
@option(
    _DATA,
    "--data",
    metavar="DIR|SCENE",
    help="Folder of labelled pictures: COCO's layout (annotations/person_keypoints_val2017.json, val2017/), "
    "person_keypoints_val.json with images/, or MPII's; or the built-in scene:people=3,frames=50.",
)
@option(_DATA, "--annotations", type=FILE, metavar="FILE", help="Labels in COCO's or MPII's format, instead of --data.")
@option(_DATA, "--images", type=FILE, metavar="DIR", help="Folder of the pictures that --annotations names.")
@option(
    _DATA,
    "--boxes",
    default="gt",
    show_default=True,
    metavar="gt|FILE",
    help="Labelled boxes, or a file of COCO detections.",
)
@option(_DATA, "--ignore-weak", is_flag=True, help="Leave out labels of visibility 1.")
@option(
    _DATA, "--head-boxes", type=FILE, metavar="FILE", help="MPII's mpii_gt_val.mat, for official PCKh (needs SciPy)."
)
@option(_MEASURE, "--flip-test", is_flag=True, help="Average heatmaps with those of the mirrored crop.")
@option(
    _MEASURE,
    "--quality-threshold",
    type=Number(),
    help="Predicted quality below which auto refines; default: the model's.",
)
@option(
    _MODEL,
    "--alpha",
    type=Number(0, 1, min_open=True),
    help="Share of a person's regions that the fine stage looks at; default: the model's.",
)
@option(
    _MODEL,
    "--device",
    shell_complete=complete_devices,
    metavar="DEVICE",
    default="cpu",
    show_default=True,
    help="Device: cpu, cuda[:i], tensorrt[:i], ort-tensorrt[:i], openvino[:CPU|GPU[.i]|NPU], or auto: the best that "
    "this machine has. With "
    "--checkpoint, one of PyTorch's.",
)
@option(
    _MODEL,
    "--precision",
    type=click.Choice(PRECISIONS),
    default="auto",
    show_default=True,
    help="Precision of a bundle to compute in, as in sharpose-run.",
)
@option(_MODEL, "--threads", type=Threads(), help="CPU threads of the engine; default: the engine's choice.")
@option(
    _DATA,
    "--limit",
    type=Whole(1, 10**9),
    help="Number of pictures with labelled people, from the first (of a scene: of frames); default: all.",
)
@option(
    _MEASURE,
    "--choose-threshold",
    "promise",
    metavar="PROMISE",
    help='Choose the threshold that keeps "ap-loss<=0.2" or "refine-rate<=0.4" on half of the pictures, say whether '
    "the others do so too (kept, within chance or not kept), and write it into the bundle unless it is not kept.",
)
@option(
    _MEASURE,
    "--calibrate-quality",
    type=FILE,
    metavar="FILE",
    help="Fit the predicted quality of --checkpoint to the true OKS on half of the pictures, and write the changed "
    "checkpoint there. Ranks stay; choose the threshold afterwards.",
)
@option(
    _MEASURE,
    "--calibrate-scores",
    type=FILE,
    metavar="OUT",
    help="Fit tables that make scores probabilities on half of the pictures, and write a bundle with them there (the "
    "folder of --bundle itself: into it), or the checkpoint.",
)
@option(
    _MEASURE,
    "--seed",
    type=Whole(0, (1 << 63) - 1),
    help="Seed of the halves for --choose-threshold, --calibrate-quality and --calibrate-scores; default: 0.",
)
@option(_REPORT, "--no-plots", is_flag=True, help="Skip the plots, which need matplotlib.")
@option(_REPORT, "--output", type=FILE, metavar="DIR", required=True, help="Folder for the report, results and plots.")
@option(_REPORT, "--overwrite", is_flag=True, help="Replace result files that exist; without it they are refused.")
@option("Help", "--debug", is_flag=True, help="Traceback of an error.")
def command(**values: Any) -> int:  # noqa: ANN401 (click's; EvalOptions refuses names that it doesn't know)
    """Measure poses on labelled pictures: AP, AR and PCK at refine never, auto and always, and how well quality is
    predicted. Writes report.md, metrics.json, results_MODE.json (COCO) and plots.
    """
    options = EvalOptions(**values)
    from sharpose.training.evaluation.run import run_evaluation

    interruptible()
    return run_evaluation(options)


def main() -> NoReturn:
    """Entry point."""
    run_command(command)


if __name__ == "__main__":
    main()
