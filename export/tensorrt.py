"""`sharpose-export --tensorrt`: engines beside the graphs of a bundle. Torch-free."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from sharpose.bundle import Precision, gpu_precision
from sharpose.errors import ExportError

if TYPE_CHECKING:
    from sharpose.bundle import Bundle
    from sharpose.engines.tensorrt.library import BuildOptions
    from sharpose.export.cli import BuildChoices

__all__ = ["build_engines", "build_options", "check_tensorrt", "engine_precision"]


def check_tensorrt(choices: BuildChoices, max_batch: int) -> None:
    """Raise `EngineError` now for what would stop a build after the minutes of an export."""
    from sharpose.engines.tensorrt.build import gpu_for_build
    from sharpose.engines.tensorrt.library import check_options, find_flavour

    flavour = find_flavour()
    check_options(build_options(choices, max_batch), flavour)
    gpu_for_build(flavour)


def build_options(choices: BuildChoices, max_batch: int) -> BuildOptions:
    """The builder's options; raises `EngineError` where the batch sizes are out of order."""
    from sharpose.engines.tensorrt.library import BuildOptions

    return BuildOptions(
        max_batch=max_batch,
        min_batch=choices.min_batch or 1,
        opt_batch=choices.opt_batch,
        workspace_mib=choices.workspace,
        optimization_level=choices.optimization_level,
        timing_cache=choices.timing_cache,
        hardware_compatible=choices.hardware_compatible,
        version_compatible=choices.version_compatible,
    )


def engine_precision(available: tuple[Precision, ...], asked: tuple[Precision, ...] | None) -> Precision:
    """The precision to build: the one asked for, else fp16 where there is one, else fp32.

    Raises:
        ExportError: more than one was asked for.
    """
    if asked is not None and len(asked) > 1:
        raise ExportError(f"--precision {','.join(asked)}: engines are built in one precision; give one")
    if asked is not None:
        return asked[0]
    return gpu_precision(available)


def build_engines(
    bundle: Bundle, choices: BuildChoices, max_batch: int | None, precision: Precision, console: Console
) -> Path:
    """Build the engines of both graphs into the bundle's folder, with a progress bar; returns their folder.

    Raises:
        EngineError: there is no TensorRT, it refuses an option or the batch sizes, or the build failed.
        BundleError: the bundle has no graphs in that precision.
    """
    from sharpose.engines.tensorrt.build import ENGINES_FOLDER, build_bundle_engines
    from sharpose.engines.tensorrt.load import build_bar

    options = build_options(choices, max_batch or bundle.manifest.max_batch)
    folder = bundle.path / ENGINES_FOLDER
    with build_bar() as on_progress:
        build_bundle_engines(bundle, folder, precision, options, on_progress)
    console.print(f"built {precision} engines in {folder}", soft_wrap=True, highlight=False, markup=False)
    return folder
