"""`sharpose-export`: a checkpoint becomes a bundle; a bundle gets TensorRT engines, is verified, and is served."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, get_args

import click

from sharpose.cli import (
    DEVICE,
    FILE,
    SIZE,
    Number,
    SectionedCommand,
    Whole,
    complete_configurations,
    complete_devices,
    interruptible,
    option,
    warn,
)
from sharpose.cli import main as run_command
from sharpose.engines.device import Device
from sharpose.engines.precision import RunPrecision, choose_precision
from sharpose.errors import ExportError, ParityError, SinkError, require_packages
from sharpose.export.options import CommandOptions

if TYPE_CHECKING:
    from rich.console import Console

    from sharpose.bundle import Bundle
    from sharpose.export.pictures import ParityPictures
    from sharpose.model import LoadedModel


def _precisions(text: str) -> tuple[RunPrecision, ...]:
    """`fp32,fp16` in the toolkit's own order, whatever order was typed."""
    asked = [part.strip() for part in text.split(",")]
    known: tuple[RunPrecision, ...] = get_args(RunPrecision)
    if not set(asked) <= set(known):
        raise click.BadParameter(f"expected one or more of {', '.join(known)}, with commas between, got {text!r}")
    if len(set(asked)) != len(asked):
        raise click.BadParameter(f"{text!r} repeats a precision; give each once")
    return tuple(precision for precision in known if precision in asked)


def _batches(text: str) -> tuple[int, ...]:
    """`1,4,16`, whose order and limits `BuildOptions` checks."""
    if re.fullmatch(r"[0-9]{1,4}(,[0-9]{1,4})*", text) is None:
        raise click.BadParameter(f"expected batch sizes with commas between, as 1,4,16, got {text!r}")
    return tuple(map(int, text.split(",")))


_BATCH = Whole(1, 4096)  # as a bundle's
_SEED = Whole(-(1 << 63), (1 << 63) - 1)  # what PyTorch takes
_MODEL, _BUNDLE, _PARITY, _ENGINES = "Model", "Bundle", "Parity with PyTorch", "TensorRT engines"
_VERIFY, _TRITON = "Comparison of engines", "Server"


@click.command(
    cls=SectionedCommand,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    examples=[
        "sharpose-export --checkpoint sharpose_small.pth --config sharpose_small_coco_256x192 --output bundle",
        "sharpose-export --checkpoint FILE --precision fp32,fp16 --output bundle --verify",
        "sharpose-export --random-weights --config sharpose_tiny_coco_256x192 --output bundle",
    ],
)
@option(
    _MODEL,
    "--checkpoint",
    type=FILE,
    metavar="FILE",
    help="Checkpoint: .pth in the released format, .safetensors, or a bundle's folder.",
)
@option(
    _MODEL,
    "--config",
    shell_complete=complete_configurations,
    metavar="NAME|FILE",
    help="Model configuration; default: read off the checkpoint.",
)
@option(_MODEL, "--random-weights", is_flag=True, help="Seeded random weights instead of a checkpoint.")
@option(_MODEL, "--seed", type=_SEED, help="Seed of the random weights; default: 0.")
@option(
    _MODEL, "--size", type=SIZE, metavar="HxW", help="Crop size in pixels, if not the one that the model has learned."
)
@option(
    _MODEL,
    "--alpha",
    type=Number(0, 1, min_open=True),
    help="Share of the regions that the fine stage sees; default: the configuration's.",
)
@option(
    _MODEL,
    "--quality-threshold",
    type=Number(),
    help="Predicted quality below which people are refined; default: the configuration's.",
)
@option(_BUNDLE, "--output", type=FILE, metavar="DIR", help="Folder to write the bundle to.")
@option(_BUNDLE, "--overwrite", is_flag=True, help="Replace an existing bundle or repository that holds nothing else.")
@option(
    _BUNDLE,
    "--bundle",
    type=FILE,
    metavar="DIR",
    help="Existing bundle to work on with --tensorrt, --verify or --triton; nothing is exported.",
)
@option(
    _BUNDLE,
    "--precision",
    type=_precisions,
    metavar="LIST",
    help="Precisions of the graphs, with commas between: fp32 (for ONNX Runtime on a CPU), fp16, int8 (calibrated on "
    "half of --images); default: fp32. With --bundle: the one to build (--tensorrt) or to serve (--triton), or those "
    "to compare, bf16 too (--verify; default: all).",
)
@option(
    _BUNDLE,
    "--store-weights",
    type=click.Choice(["fp32", "fp16"]),
    help="Precision that the weights of fp32 graphs are stored in; fp16 halves the file, and loading casts the rounded "
    "weights back; default: fp32.",
)
@option(_BUNDLE, "--max-batch", type=_BATCH, help="People in a run at most; default: 16, or the bundle's.")
@option(_BUNDLE, "--opset", type=Whole(18, 22), help="ONNX opset; default: 20.")
@option(
    _PARITY,
    "--images",
    type=FILE,
    metavar="DIR",
    help="Folder of pictures to compare on, each taken as one person, if no --labels are given; default: the built-in "
    "scene.",
)
@option(
    _PARITY, "--strict-parity", is_flag=True, help="Fail also where keypoints move, regions differ or the gate flips."
)
@option(
    _ENGINES,
    "--tensorrt",
    is_flag=True,
    help="Build engines into the bundle's folder engines/, in fp16 if the bundle holds it.",
)
@option(_ENGINES, "--min-batch", type=_BATCH, help="Smallest batch; default: 1.")
@option(
    _ENGINES,
    "--opt-batch",
    type=_batches,
    metavar="LIST",
    help="Batches to be fastest at, with commas between; default: 1, 4 and the largest; 4 with TensorRT-RTX, which "
    "adapts to every batch as it runs.",
)
@option(
    _ENGINES,
    "--workspace",
    type=Whole(1, 1 << 24),
    metavar="MIB",
    help="Scratch memory in MiB that a layer may use, for example 256 on a Jetson with 4 GB; default: TensorRT's "
    "choice.",
)
@option(
    _ENGINES,
    "--optimization-level",
    type=Whole(0, 5),
    help="Builder optimization level: 0 builds fastest, 5 runs fastest; default: TensorRT's choice.",
)
@option(
    _ENGINES,
    "--timing-cache",
    type=FILE,
    metavar="FILE",
    help="File of kernel timings to read and to write back; default: one beside the engines.",
)
@option(
    _ENGINES,
    "--tf32",
    is_flag=True,
    help="Multiply matrices of fp32 graphs in TF32: faster, and with the mantissa of a half; for sharpose-run --tf32.",
)
@option(
    _ENGINES,
    "--hardware-compatible",
    is_flag=False,
    flag_value="ampere-plus",
    type=click.Choice(["ampere-plus", "same-compute-capability"]),
    help="Engines that also run on other GPUs, but for Jetsons: on all since Ampere (if no level is given), or on "
    "those of the same compute capability.",
)
@option(
    _ENGINES,
    "--version-compatible",
    is_flag=True,
    help="Engines that also run with later versions of TensorRT of the same major version.",
)
@option(_VERIFY, "--verify", is_flag=True, help="Compare every engine of this machine with the fp32 ONNX graphs.")
@option(
    _VERIFY,
    "--labels",
    type=FILE,
    metavar="FILE",
    help="COCO keypoints of the pictures in --images: the people in them are compared, and AP is measured. Needs the "
    "extra [eval].",
)
@option(
    _TRITON,
    "--triton",
    type=FILE,
    metavar="DIR",
    help="Folder to write a model repository for NVIDIA Triton to; sharpose-run --server is its client.",
)
@option(
    _TRITON,
    "--triton-layout",
    type=click.Choice(["product", "graphs"]),
    help="product: one model that runs this package, which the server needs installed; graphs: both graphs, or the "
    "bundle's TensorRT engines, run by Triton's own backends, and a gate that needs numpy alone; default: product.",
)
@option(
    _TRITON,
    "--device",
    type=DEVICE,
    metavar="DEVICE",
    shell_complete=complete_devices,
    help="Device that the product layout's model runs on, as of sharpose-run; default: cpu, with --tensorrt tensorrt.",
)
@option("Help", "--debug", is_flag=True, help="Traceback of an error.")
def command(**values: Any) -> int:  # noqa: ANN401 (click's; the dataclass refuses names that it doesn't know)
    """Turn a SHaRPose checkpoint into a bundle: two ONNX graphs, their weights, and a parity report.

    --tensorrt builds engines for this machine's TensorRT, --verify compares all engines that this machine can run,
    --triton writes what a server needs; all of them also work on an existing bundle (--bundle DIR), without PyTorch.
    """
    options = CommandOptions(**values)
    from rich.console import Console

    from sharpose.bundle import open_bundle

    console = Console()
    if options.triton is not None:
        from sharpose.export.output import REPOSITORY, check_output

        check_output(options.triton, REPOSITORY, overwrite=options.overwrite)  # before the minutes of the rest
    folder = options.bundle or _export(options, console)
    if options.tensorrt or options.verify or options.triton is not None:
        bundle = open_bundle(folder)
        if options.tensorrt:
            _build(bundle, options, console)
        if options.verify:
            _verify(bundle, options, console)
        if options.triton is not None:
            _write_repository(bundle, options, console)
    return 0


def _export(options: CommandOptions, console: Console) -> Path:
    """Write the bundle and return its folder."""
    packages = ["torch", "onnxscript", "onnx", "onnxruntime", "yaml"]
    require_packages("sharpose-export", packages, "cpu,export", ExportError)
    from sharpose.export.bundle import ExportOptions, ParityReportError, export_bundle
    from sharpose.export.output import check_output
    from sharpose.export.parity import print_parity
    from sharpose.export.pictures import choose_pictures

    interruptible()
    assert options.output is not None
    max_batch = options.max_batch or ExportOptions.max_batch
    check_output(options.output, overwrite=options.overwrite)  # before the seconds that loading takes
    if options.tensorrt:
        _check_tensorrt(options, max_batch)
    loaded = _load(options, console)
    export_options = ExportOptions(
        precisions=options.exported,
        max_batch=max_batch,
        opset=ExportOptions.opset if options.opset is None else options.opset,
        store_weights=options.store_weights or ExportOptions.store_weights,
        gate_chosen_by=ExportOptions.gate_chosen_by if options.quality_threshold is None else "--quality-threshold",
        strict_parity=options.strict_parity,
        overwrite=options.overwrite,
    )
    pictures, _ = choose_pictures(options.images, options.labels, loaded.config, int8="int8" in options.exported)
    try:
        reports = export_bundle(loaded, options.output, pictures, export_options, say=_say(console)).parity
    except ParityReportError as failure:
        for precision, report in failure.reports.items():
            print_parity(precision, report, console)
        raise
    for precision, report in reports.items():
        print_parity(precision, report, console)
    _print_usage(pictures, console)
    done = f"wrote {options.output}: run it with  {_run_command(options.output)}"
    console.print(done, highlight=False, markup=False, soft_wrap=True)
    warn(*loaded.warnings)  # again, where it is seen
    return options.output


def _load(options: CommandOptions, console: Console) -> LoadedModel:
    from sharpose.config import load_config
    from sharpose.model import load_model, random_model

    given = {"alpha": options.alpha, "quality_threshold": options.quality_threshold}
    changes: dict[str, object] = {name: value for name, value in given.items() if value is not None}
    config = load_config(options.config).replace(changes) if options.config is not None else None
    if options.checkpoint is not None:
        loaded = load_model(options.checkpoint, config, size=options.size, changes=changes)
    else:
        assert config is not None
        config = config.replace({"crop_size": options.size}) if options.size else config
        loaded = random_model(config, options.seed or 0)
        console.print("weights: random, so the poses mean nothing")
    for note in loaded.notes:
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    warn(*loaded.warnings)
    return loaded


def _check_tensorrt(options: CommandOptions, max_batch: int) -> None:
    """Raise `EngineError` now for what would stop a build after the minutes of an export."""
    from sharpose.engines.tensorrt.build import gpu_for_build
    from sharpose.engines.tensorrt.library import check_options, find_flavour

    flavour = find_flavour()
    check_options(options.build_options(max_batch), flavour)
    gpu_for_build(flavour)


def _build(bundle: Bundle, options: CommandOptions, console: Console) -> None:
    """Build the engines of both graphs into the bundle's folder, with a progress bar on stderr."""
    from sharpose.engines.tensorrt.build import ENGINES_FOLDER, build_bundle_engines
    from sharpose.engines.tensorrt.load import build_bar

    interruptible()
    precision = options.engine_precision(bundle)
    build_options = options.build_options(options.max_batch or bundle.manifest.max_batch)
    folder = bundle.path / ENGINES_FOLDER
    with build_bar() as on_progress:
        build_bundle_engines(bundle, folder, precision, build_options, on_progress)
    more = ["--device tensorrt"]
    if choose_precision(bundle, Device("tensorrt")) != precision:
        more.append(f"--precision {precision}")
    if options.tf32 and precision == "fp32":
        more.append("--tf32")
    done = f"built {precision} engines in {folder}: run them with  {_run_command(bundle.path, *more)}"
    console.print(done, highlight=False, markup=False, soft_wrap=True)


def _run_command(bundle: Path, *more: str) -> str:
    """What to type to run a bundle, with more options."""
    return " ".join(["sharpose-run SOURCE --bundle", shlex.quote(str(bundle)), *more])


def _verify(bundle: Bundle, options: CommandOptions, console: Console) -> None:
    from sharpose.export.pictures import MAX_CROPS, choose_pictures
    from sharpose.export.verify import keep_verification, print_verification, verify_bundle

    pictures, labelled = choose_pictures(options.images, options.labels, bundle.model)
    calibrated = bundle.manifest.parity.get("int8")
    if calibrated is not None:
        halves, _ = choose_pictures(options.images, options.labels, bundle.model, int8=True)
        if calibrated.pictures == halves.origin:  # the export calibrated int8 on the other half
            pictures = replace(halves, crops=halves.crops[:MAX_CROPS])
    chosen = None if options.bundle is None else options.precision
    result = verify_bundle(bundle, pictures, labelled, say=_say(console), precisions=chosen)
    print_verification(result, console)
    _print_usage(pictures, console)
    failed = "; ".join(result.failures)
    try:
        console.print(keep_verification(bundle, result), highlight=False, markup=False, soft_wrap=True)
    except SinkError as error:
        if not failed:
            raise
        failed += f"; {error}"
    if failed:
        raise ParityError(f"engines differ from the float32 graphs: {failed}")


def _write_repository(bundle: Bundle, options: CommandOptions, console: Console) -> None:
    from sharpose.export.output import REPOSITORY, atomic_folder
    from sharpose.serving.repository import HowToRun, write_repository

    interruptible()
    assert options.triton is not None
    asked = options.precision if options.bundle is not None and not options.verify else None
    how = HowToRun(
        device=options.device or ("tensorrt" if options.tensorrt else HowToRun.device),
        precision=options.engine_precision(bundle) if options.tensorrt else (asked or (HowToRun.precision,))[0],
    )
    with atomic_folder(options.triton, REPOSITORY, overwrite=options.overwrite) as folder:
        for line in write_repository(bundle, folder, options.triton_layout or "product", how):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    done = f"wrote {options.triton}: serve it with  tritonserver --model-repository {shlex.quote(str(options.triton))}"
    console.print(done, highlight=False, markup=False, soft_wrap=True)


def _print_usage(pictures: ParityPictures, console: Console) -> None:
    for line in pictures.usage:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _say(console: Console) -> Callable[[str], None]:
    return lambda step: console.print(f"… {step}", highlight=False, markup=False)


def main() -> NoReturn:
    """Entry point."""
    run_command(command)


if __name__ == "__main__":
    main()
