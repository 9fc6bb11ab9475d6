"""`sharpose-export`: a checkpoint becomes a bundle."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NoReturn

import click

from sharpose.command import main as run_command
from sharpose.errors import ExportError

__all__ = ["command", "main"]


def _parse_size(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise click.BadParameter(f"expected HEIGHTxWIDTH, as 256x192, got {text!r}")
    return int(match[1]), int(match[2])


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Checkpoint in the released format (.pth).")
@click.option(
    "--config", "config_name", metavar="NAME|FILE", help="Model configuration; read off the checkpoint if left out."
)
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder to write the bundle to.")
@click.option(
    "--precision", type=click.Choice(["fp32"]), default="fp32", show_default=True, help="Precision of the graphs."
)
@click.option(
    "--size", callback=_parse_size, metavar="HxW", help="Use the model at another crop size than it was trained at."
)
@click.option("--max-batch", type=click.IntRange(1), default=16, show_default=True, help="Most people in one run.")
@click.option("--alpha", type=click.FloatRange(0, 1, min_open=True), help="Share of regions that the fine stage sees.")
@click.option("--quality-threshold", type=float, help="Refine crops whose predicted quality is below it.")
@click.option("--opset", type=int, default=20, show_default=True, help="ONNX opset, 18 to 22.")
@click.option("--random-weights", is_flag=True, help="Export seeded random weights instead of a checkpoint.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the random weights.")
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    help="Folder of pictures to measure parity on; else the built-in scene.",
)
@click.option("--strict-parity", is_flag=True, help="Also fail where keypoints move, regions differ or gates flip.")
@click.option("--overwrite", is_flag=True, help="Replace a bundle that is there.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def command(
    checkpoint: Path | None,
    config_name: str | None,
    output: Path,
    precision: str,
    size: tuple[int, int] | None,
    max_batch: int,
    alpha: float | None,
    quality_threshold: float | None,
    opset: int,
    random_weights: bool,
    seed: int,
    images: Path | None,
    strict_parity: bool,
    overwrite: bool,
    debug: bool,
) -> int:
    """Turn a SHaRPose checkpoint into a bundle: two ONNX graphs, their weights, and a parity report."""
    if checkpoint is None and not random_weights:
        raise click.UsageError("expected --checkpoint FILE; or --random-weights to try the tools out without one")
    if checkpoint is not None and random_weights:
        raise click.UsageError("--checkpoint and --random-weights exclude each other")
    if random_weights and config_name is None:
        raise click.UsageError("--random-weights needs --config NAME|FILE")
    from sharpose.export.atomic_folder import check_output

    check_output(output, overwrite=overwrite)  # before the seconds that loading takes
    _require_packages()

    from rich.console import Console

    from sharpose.config import load_config
    from sharpose.export.bundle_export import ExportOptions, ParityReportError, export_bundle
    from sharpose.export.pictures import folder_pictures, scene_pictures
    from sharpose.export.report import print_parity
    from sharpose.model import load_model, random_model

    console = Console()
    changes: dict[str, object] = {}
    if alpha is not None:
        changes["alpha"] = alpha
    if quality_threshold is not None:
        changes["quality_threshold"] = quality_threshold
    config = load_config(config_name).replace(changes) if config_name is not None else None
    if checkpoint is not None:
        loaded = load_model(checkpoint, config, size=size, changes=changes)
    else:
        assert config is not None
        loaded = random_model(config.replace({"crop_size": size}) if size else config, seed)
        console.print("weights: random, so the poses mean nothing")
    for note in loaded.notes:
        console.print(f"note: {note}")
    crop_size = loaded.config.crop_size
    pictures = folder_pictures(images, crop_size) if images is not None else scene_pictures(crop_size)
    options = ExportOptions(
        max_batch=max_batch,
        opset=opset,
        gate_chosen_by="the model's configuration" if quality_threshold is None else "--quality-threshold",
        strict_parity=strict_parity,
        overwrite=overwrite,
    )
    try:
        manifest = export_bundle(loaded, output, pictures, options, say=lambda step: console.print(f"… {step}"))
    except ParityReportError as failure:
        print_parity(failure.report, console)
        raise
    print_parity(manifest.parity["fp32"], console)
    console.print(f"wrote {output}: run it with  sharpose-run SOURCE --bundle {output}", soft_wrap=True)
    return 0


def _require_packages() -> None:
    for module, extra in (
        ("torch", "export"),
        ("onnxscript", "export"),
        ("onnx", "export"),
        ("onnxruntime", "cpu,export"),
    ):
        try:
            __import__(module)
        except ImportError:
            raise ExportError(f'sharpose-export needs {module}: pip install "sharpose[{extra}]"') from None


def main() -> NoReturn:
    """Entry point."""
    run_command(command)
