"""`sharpose-export`: a checkpoint becomes a bundle; a bundle gets TensorRT engines and is verified."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn, TypeVar, get_args

import click

from sharpose.bundle import Precision
from sharpose.cli import main as run_command
from sharpose.errors import ExportError

if TYPE_CHECKING:
    from rich.console import Console

    from sharpose.bundle import Bundle, Precision
    from sharpose.config import ModelConfig
    from sharpose.export.bundle import ExportOptions
    from sharpose.export.pictures import ParityPictures
    from sharpose.model import LoadedModel

__all__ = ["BuildChoices", "command", "main", "parse_precisions", "parse_size", "refuse_given", "tensorrt_options"]

_Command = TypeVar("_Command", bound=Callable[..., object])


def parse_size(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[int, int] | None:
    """`HEIGHTxWIDTH` to two numbers, as a click callback."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise click.BadParameter(f"expected HEIGHTxWIDTH, as 256x192, got {text!r}")
    return int(match[1]), int(match[2])


def parse_precisions(
    context: click.Context, parameter: click.Parameter, text: str | None
) -> tuple[Precision, ...] | None:
    """`fp32,fp16` to a tuple in the toolkit's own order, whatever order was typed; as a click callback."""
    if text is None:
        return None
    asked = [part.strip() for part in text.split(",")]
    known: tuple[Precision, ...] = get_args(Precision)
    unknown = [part for part in asked if part not in known]
    if unknown or len(set(asked)) != len(asked):
        raise click.BadParameter(f"expected one or more of {', '.join(known)}, with commas between, got {text!r}")
    return tuple(precision for precision in known if precision in asked)


@dataclass
class BuildChoices:
    """What was asked of TensorRT's builder; None where nothing was said."""

    tensorrt: bool = False
    min_batch: int | None = None
    opt_batch: int | None = None
    workspace: int | None = None
    optimization_level: int | None = None
    timing_cache: Path | None = None
    hardware_compatible: bool = False
    version_compatible: bool = False

    def check(self) -> None:
        """Raise `UsageError` where a builder's option comes without `--tensorrt`."""
        if self.tensorrt:
            return
        for name, value in vars(self).items():
            if value not in (None, False):
                raise click.UsageError(f"--{name.replace('_', '-')} needs --tensorrt")


def _store(context: click.Context, parameter: click.Parameter, value: object) -> None:
    assert parameter.name is not None
    setattr(context.ensure_object(BuildChoices), parameter.name, value)


def tensorrt_options(command: _Command) -> _Command:
    """The builder's options; their values come as the context's `BuildChoices`."""
    options = [
        click.option(
            "--tensorrt",
            is_flag=True,
            expose_value=False,
            callback=_store,
            help="Build TensorRT engines into the bundle's folder engines/ (fp16 if it holds fp16).",
        ),
        click.option(
            "--min-batch", type=click.IntRange(1), expose_value=False, callback=_store, help="Engines: smallest batch."
        ),
        click.option(
            "--opt-batch",
            type=click.IntRange(1),
            expose_value=False,
            callback=_store,
            help="Engines: the batch to be fastest at.",
        ),
        click.option(
            "--workspace",
            type=click.IntRange(1),
            metavar="MIB",
            expose_value=False,
            callback=_store,
            help="Engines: most scratch memory that a layer may use.",
        ),
        click.option(
            "--optimization-level",
            type=click.IntRange(0, 5),
            expose_value=False,
            callback=_store,
            help="Engines: 0 builds fastest, 5 runs fastest.",
        ),
        click.option(
            "--timing-cache",
            type=click.Path(path_type=Path),
            expose_value=False,
            callback=_store,
            help="Engines: file of kernel timings to read and write back.",
        ),
        click.option(
            "--hardware-compatible",
            is_flag=True,
            expose_value=False,
            callback=_store,
            help="Engines for other GPUs, too.",
        ),
        click.option(
            "--version-compatible",
            is_flag=True,
            expose_value=False,
            callback=_store,
            help="Engines for later TensorRT, too.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def refuse_given(context: click.Context, names: Sequence[str], why: str) -> None:
    """Raise `UsageError` for the first of the parameters that the user gave a value for."""
    for name in names:
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            option = next(item for item in context.command.params if item.name == name).opts[0]
            raise click.UsageError(f"{option} and --bundle exclude each other: {why}")


_MAX_BATCH = 16
_EXPORT_ONLY = (
    "checkpoint",
    "config_name",
    "output",
    "size",
    "alpha",
    "quality_threshold",
    "opset",
    "store_weights",
    "random_weights",
    "seed",
    "strict_parity",
    "overwrite",
)
_FILE = click.Path(path_type=Path)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--checkpoint", type=_FILE, help="Checkpoint in the released format (.pth).")
@click.option(
    "--config", "config_name", metavar="NAME|FILE", help="Model configuration; read off the checkpoint if left out."
)
@click.option("--output", type=_FILE, help="Folder to write the bundle to.")
@click.option(
    "--bundle", "bundle_folder", type=_FILE, help="Export nothing: work on this bundle, with --tensorrt or --verify."
)
@click.option(
    "--precision",
    "precisions",
    callback=parse_precisions,
    metavar="LIST",
    help="Precisions of the graphs: fp32 (the default; ONNX Runtime on a CPU runs these), fp16, int8 (experimental, "
    "calibrated on --images), or several: fp32,fp16. "
    "With --bundle --tensorrt: the one to build.",
)
@click.option(
    "--size", callback=parse_size, metavar="HxW", help="Use the model at another crop size than it was trained at."
)
@click.option("--max-batch", type=click.IntRange(1), help="Most people in one run.  [default: 16, or the bundle's]")
@click.option("--alpha", type=click.FloatRange(0, 1, min_open=True), help="Share of regions that the fine stage sees.")
@click.option("--quality-threshold", type=float, help="Refine crops whose predicted quality is below it.")
@click.option("--opset", type=int, default=20, show_default=True, help="ONNX opset, 18 to 22.")
@click.option(
    "--store-weights",
    type=click.Choice(["fp32", "fp16"]),
    default="fp32",
    show_default=True,
    help="fp16 halves the file: float32 graphs cast the rounded weights when they are loaded.",
)
@click.option("--random-weights", is_flag=True, help="Export seeded random weights instead of a checkpoint.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the random weights.")
@click.option("--images", type=_FILE, help="Folder of pictures to compare on; else the built-in scene.")
@click.option("--strict-parity", is_flag=True, help="Also fail where keypoints move, regions differ or gates flip.")
@click.option("--overwrite", is_flag=True, help="Replace a bundle that is there.")
@tensorrt_options
@click.option("--verify", is_flag=True, help="Compare every engine of this machine with the float32 ONNX graphs.")
@click.option(
    "--labels", type=_FILE, help="With --verify: COCO keypoints of the pictures in --images, to measure AP with."
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def command(
    context: click.Context,
    checkpoint: Path | None,
    config_name: str | None,
    output: Path | None,
    bundle_folder: Path | None,
    precisions: tuple[Precision, ...] | None,
    size: tuple[int, int] | None,
    max_batch: int | None,
    alpha: float | None,
    quality_threshold: float | None,
    opset: int,
    store_weights: Literal["fp32", "fp16"],
    random_weights: bool,
    seed: int,
    images: Path | None,
    strict_parity: bool,
    overwrite: bool,
    verify: bool,
    labels: Path | None,
    debug: bool,
) -> int:
    """Turn a SHaRPose checkpoint into a bundle: two ONNX graphs, their weights, and a parity report.

    --tensorrt builds engines for this machine's TensorRT, --verify compares all engines that this machine can run; both
    also work on a bundle that is there (--bundle DIR), without PyTorch.
    """
    choices = context.ensure_object(BuildChoices)
    choices.check()
    if labels is not None and not (verify and images is not None):
        raise click.UsageError("--labels needs --verify and the pictures' folder as --images")
    if bundle_folder is not None:
        refuse_given(context, _EXPORT_ONLY, "a bundle that is there isn't exported again")
        return _on_bundle(bundle_folder, choices, max_batch, precisions, verify, images, labels)
    if output is None:
        raise click.UsageError("expected --output DIR, or --bundle DIR to work on a bundle that is there")
    if checkpoint is None and not random_weights:
        raise click.UsageError("expected --checkpoint FILE; or --random-weights to try the tools out without one")
    if checkpoint is not None and random_weights:
        raise click.UsageError("--checkpoint and --random-weights exclude each other")
    if random_weights and config_name is None:
        raise click.UsageError("--random-weights needs --config NAME|FILE")
    precisions = precisions or ("fp32",)
    if store_weights == "fp16" and "fp32" not in precisions:
        raise click.UsageError("--store-weights fp16 is for fp32 graphs: add fp32 to --precision")
    if verify and "fp32" not in precisions:
        raise click.UsageError("--verify compares with fp32 graphs: add fp32 to --precision")
    from sharpose.export.bundle import check_output

    # All of these before the seconds that loading takes.
    check_output(output, overwrite=overwrite)
    _require_packages()
    if choices.tensorrt:
        from sharpose.export.tensorrt import check_tensorrt

        check_tensorrt(choices, max_batch or _MAX_BATCH)

    from rich.console import Console

    from sharpose.bundle import open_bundle
    from sharpose.config import load_config
    from sharpose.export.bundle import ExportOptions

    console = Console()
    changes: dict[str, object] = {}
    if alpha is not None:
        changes["alpha"] = alpha
    if quality_threshold is not None:
        changes["quality_threshold"] = quality_threshold
    config = load_config(config_name).replace(changes) if config_name is not None else None
    loaded = _load(checkpoint, config, size, changes, seed, console)
    options = ExportOptions(
        precisions=precisions,
        max_batch=max_batch or _MAX_BATCH,
        opset=opset,
        store_weights=store_weights,
        gate_chosen_by="the model's configuration" if quality_threshold is None else "--quality-threshold",
        strict_parity=strict_parity,
        overwrite=overwrite,
    )
    _export(loaded, output, _pictures(images, loaded.config.crop_size), options, console)
    if choices.tensorrt or verify:
        _build_and_verify(open_bundle(output), choices, max_batch, None, verify, images, labels, console)
    return 0


def _load(
    checkpoint: Path | None,
    config: ModelConfig | None,
    size: tuple[int, int] | None,
    changes: dict[str, object],
    seed: int,
    console: Console,
) -> LoadedModel:
    from sharpose.model import load_model, random_model

    if checkpoint is not None:
        loaded = load_model(checkpoint, config, size=size, changes=changes)
    else:
        assert config is not None
        loaded = random_model(config.replace({"crop_size": size}) if size else config, seed)
        console.print("weights: random, so the poses mean nothing")
    for note in loaded.notes:
        console.print(f"note: {note}", highlight=False, markup=False)
    return loaded


def _export(
    loaded: LoadedModel, output: Path, pictures: ParityPictures, options: ExportOptions, console: Console
) -> None:
    from sharpose.export.bundle import ParityReportError, export_bundle
    from sharpose.export.parity import print_parity

    try:
        reports = export_bundle(
            loaded,
            output,
            pictures,
            options,
            say=lambda step: console.print(f"… {step}", highlight=False, markup=False),
        ).parity
    except ParityReportError as failure:
        for precision, report in failure.reports.items():
            print_parity(precision, report, console)
        raise
    for precision, report in reports.items():
        print_parity(precision, report, console)
    console.print(f"wrote {output}: run it with  sharpose-run SOURCE --bundle {output}", markup=False, soft_wrap=True)


def _on_bundle(
    folder: Path,
    choices: BuildChoices,
    max_batch: int | None,
    precisions: tuple[Precision, ...] | None,
    verify: bool,
    images: Path | None,
    labels: Path | None,
) -> int:
    """`--bundle`: nothing here imports PyTorch."""
    if not choices.tensorrt and not verify:
        raise click.UsageError("--bundle needs --tensorrt, to build engines, or --verify, to compare them")
    if not choices.tensorrt and (precisions is not None or max_batch is not None):
        raise click.UsageError("--precision and --max-batch need --tensorrt where nothing is exported")
    from rich.console import Console

    from sharpose.bundle import open_bundle

    _build_and_verify(open_bundle(folder), choices, max_batch, precisions, verify, images, labels, Console())
    return 0


def _build_and_verify(
    bundle: Bundle,
    choices: BuildChoices,
    max_batch: int | None,
    precisions: tuple[Precision, ...] | None,
    verify: bool,
    images: Path | None,
    labels: Path | None,
    console: Console,
) -> None:
    if choices.tensorrt:
        from sharpose.export.tensorrt import build_engines, engine_precision

        build_engines(bundle, choices, max_batch, engine_precision(bundle.precisions, precisions), console)
    if not verify:
        return
    from sharpose.errors import ParityError
    from sharpose.export.pictures import load_labels
    from sharpose.export.verify import print_verification, verify_bundle

    crop_size, labelled = bundle.model.crop_size, None
    if labels is not None and images is not None:
        labelled = load_labels(labels, images, bundle.model.skeleton)
    pictures = _pictures(images, crop_size) if labelled is None else labelled.crops(crop_size)
    result = verify_bundle(
        bundle, pictures, labelled, say=lambda step: console.print(f"… running {step}", highlight=False)
    )
    print_verification(result, console)
    if result.failures:
        raise ParityError("engines differ from the float32 graphs: " + "; ".join(result.failures))


def _pictures(images: Path | None, crop_size: tuple[int, int]) -> ParityPictures:
    from sharpose.export.pictures import folder_pictures, scene_pictures

    return folder_pictures(images, crop_size) if images is not None else scene_pictures(crop_size)


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
