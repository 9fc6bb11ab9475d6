"""`sharpose-eval`: the accuracy of a checkpoint or of a bundle on any engine, and the choice of its gate."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import click

from sharpose.bundle import shipped_bundle
from sharpose.cli import EXIT_REFUSED
from sharpose.cli import main as run_command

__all__ = ["command", "main"]

_FILE = click.Path(path_type=Path)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--bundle",
    type=_FILE,
    help="Folder written by sharpose-export: measures what is deployed.  [default: the package's own]",
)
@click.option("--checkpoint", type=_FILE, help="Checkpoint in the released format (.pth): measures it in PyTorch.")
@click.option("--config", metavar="NAME|FILE", help="The checkpoint's configuration; read off it if left out.")
@click.option(
    "--data",
    metavar="DIR|SCENE",
    help="Folder laid out as COCO's (annotations/person_keypoints_val2017.json, val2017/), with "
    "person_keypoints_val.json and images/, or as MPII's; or the built-in scene:people=3,frames=50.",
)
@click.option("--annotations", type=_FILE, help="COCO-format or MPII labels, instead of --data.")
@click.option("--images", type=_FILE, help="Folder of their pictures.")
@click.option("--boxes", default="gt", show_default=True, metavar="gt|FILE", help="Labelled boxes, or COCO detections.")
@click.option("--ignore-weak", is_flag=True, help="Labels of visibility 1 count as missing.")
@click.option("--head-boxes", type=_FILE, help="MPII: mpii_gt_val.mat, for official PCKh (needs SciPy).")
@click.option("--flip-test", is_flag=True, help="Average heatmaps with the mirrored crop's.")
@click.option("--quality-threshold", type=float, help="The gate in auto; the model's own if left out.")
@click.option(
    "--device", default="cpu", show_default=True, help="As sharpose-run takes it; for a checkpoint, PyTorch's."
)
@click.option("--threads", type=click.IntRange(1), help="CPU threads; the engine's own choice if left out.")
@click.option("--limit", type=click.IntRange(1), help="Only the first so many pictures with people.")
@click.option(
    "--choose-threshold",
    "promise",
    metavar="PROMISE",
    help='Find the threshold that keeps "ap-loss<=0.2" or "refine-rate<=0.4", and write it into the bundle.',
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of that choice's halves.")
@click.option("--no-plots", is_flag=True, help="Draw nothing (needs no matplotlib).")
@click.option("--output", type=_FILE, required=True, help="Folder for the report, results and plots.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def command(
    bundle: Path | None,
    checkpoint: Path | None,
    config: str | None,
    data: str | None,
    annotations: Path | None,
    images: Path | None,
    boxes: str,
    ignore_weak: bool,
    head_boxes: Path | None,
    flip_test: bool,
    quality_threshold: float | None,
    device: str,
    threads: int | None,
    limit: int | None,
    promise: str | None,
    seed: int,
    no_plots: bool,
    output: Path,
    debug: bool,
) -> int:
    """Measure poses on labelled pictures: AP, AR and PCK at refine never, auto and always, and how well quality is
    predicted. Writes report.md, metrics.json, results_MODE.json (COCO) and plots.
    """
    if bundle is not None and checkpoint is not None:
        raise click.UsageError("--bundle and --checkpoint exclude each other: give one")
    if bundle is None and promise is not None and checkpoint is None:
        raise click.UsageError("--choose-threshold writes into the bundle: name it with --bundle DIR")
    if config is not None and checkpoint is None:
        raise click.UsageError("--config goes with --checkpoint")
    if (data is None) == (annotations is None):
        raise click.UsageError("expected either --data DIR, or --annotations FILE with --images DIR")
    if (annotations is None) != (images is None):
        raise click.UsageError("--annotations and --images go together")
    if bundle is None and checkpoint is None:
        bundle = shipped_bundle()
    from sharpose.training.evaluation.run import EvaluationRequest, run_evaluation

    request = EvaluationRequest(
        bundle=bundle,
        checkpoint=checkpoint,
        config=config,
        data=data,
        annotations=annotations,
        images=images,
        boxes="gt" if boxes == "gt" else Path(boxes),
        ignore_weak=ignore_weak,
        head_boxes=head_boxes,
        flip_test=flip_test,
        quality_threshold=quality_threshold,
        device=device,
        threads=threads,
        limit=limit,
        promise=promise,
        seed=seed,
        plots=not no_plots,
        output=output,
    )
    return 0 if run_evaluation(request) else EXIT_REFUSED


def main() -> NoReturn:
    """Entry point."""
    run_command(command)
