"""The options of `sharpose-export`, checked: which go together, and what they ask for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from sharpose.bundle import Precision
from sharpose.engines.device import Device
from sharpose.engines.precision import RunPrecision, choose_precision, graphs_of
from sharpose.errors import ExportError

if TYPE_CHECKING:
    from sharpose.bundle import Bundle
    from sharpose.engines.tensorrt.library import BuildOptions, HardwareLevel
    from sharpose.serving.repository import Layout

_FOR_EXPORT = (
    "checkpoint",
    "config",
    "output",
    "size",
    "alpha",
    "quality_threshold",
    "opset",
    "store_weights",
    "random_weights",
    "seed",
    "strict_parity",
)
_FOR_ENGINES = (
    "min_batch",
    "opt_batch",
    "workspace",
    "optimization_level",
    "timing_cache",
    "tf32",
    "hardware_compatible",
    "version_compatible",
)


@dataclass(frozen=True)
class CommandOptions:
    """The command line of `sharpose-export`, whose help says what each option is; None where nothing was given.

    Raises:
        click.UsageError: something is missing, or options exclude each other.
    """

    checkpoint: Path | None
    config: str | None
    output: Path | None
    bundle: Path | None
    precision: tuple[RunPrecision, ...] | None
    size: tuple[int, int] | None
    max_batch: int | None
    alpha: float | None
    quality_threshold: float | None
    opset: int | None
    store_weights: Literal["fp32", "fp16"] | None
    random_weights: bool
    seed: int | None
    images: Path | None
    strict_parity: bool
    overwrite: bool
    tensorrt: bool
    min_batch: int | None
    opt_batch: tuple[int, ...] | None
    workspace: int | None
    optimization_level: int | None
    timing_cache: Path | None
    tf32: bool
    hardware_compatible: HardwareLevel | None
    version_compatible: bool
    triton: Path | None
    triton_layout: Layout | None
    device: str | None
    verify: bool
    labels: Path | None
    debug: bool

    def __post_init__(self) -> None:
        if (found := self._given(_FOR_ENGINES)) and not self.tensorrt:
            raise click.UsageError(f"{found} needs --tensorrt")
        if self.triton_layout is not None and self.triton is None:
            raise click.UsageError("--triton-layout needs --triton")
        if self.device is not None and (self.triton is None or self.triton_layout == "graphs"):
            raise click.UsageError("--device is for --triton, in the layout product")
        if self.triton is not None:
            served = self.triton.resolve()
            for bundle in (path.resolve() for path in (self.output, self.bundle) if path is not None):
                if bundle in (served, *served.parents) or served in bundle.parents:
                    raise click.UsageError(
                        "--triton: expected a folder of its own, not the bundle's, in it or around it"
                    )
            if self.tf32:
                raise click.UsageError("--tf32 and --triton exclude each other: engines in TF32 are not served")
        int8 = self.bundle is None and "int8" in self.exported
        if self.labels is not None and not ((self.verify or int8) and self.images is not None):
            raise click.UsageError("--labels needs --verify and the pictures' folder as --images, or int8 and it")
        if self.bundle is not None:
            if found := self._given(_FOR_EXPORT):
                raise click.UsageError(f"{found} and --bundle exclude each other: an existing bundle isn't exported")
            if not self.tensorrt and not self.verify and self.triton is None:
                raise click.UsageError(
                    "--bundle needs --tensorrt, to build engines, --verify, to compare them, or --triton, to serve them"
                )
            if self.overwrite and self.triton is None:
                raise click.UsageError("--overwrite and --bundle exclude each other: an existing bundle isn't exported")
            if self.triton is not None and not self.verify and len(self.precision or ()) > 1:
                raise click.UsageError("--triton serves one precision: give one as --precision, or none")
            if self.images is not None and not self.verify:
                raise click.UsageError("--images needs --verify where nothing is exported")
            if not self.tensorrt and self.max_batch is not None:
                raise click.UsageError("--max-batch needs --tensorrt where nothing is exported")
            if self.tensorrt:
                self._refuse_bf16()
            return
        self._refuse_bf16()
        if self.output is None:
            raise click.UsageError("expected --output DIR, or --bundle DIR to work on an existing bundle")
        if self.checkpoint is None and not self.random_weights:
            raise click.UsageError("expected --checkpoint FILE; or --random-weights to try the tools out without one")
        if self.checkpoint is not None and self.random_weights:
            raise click.UsageError("--checkpoint and --random-weights exclude each other")
        if self.seed is not None and not self.random_weights:
            raise click.UsageError("--seed is for --random-weights, which isn't given")
        if self.random_weights and self.config is None:
            raise click.UsageError("--random-weights needs --config NAME|FILE")
        if int8 and self.images is None and not self.random_weights:
            raise click.UsageError("--precision int8 needs pictures of people as --images, at least 64 of them")
        if "fp32" not in self.exported:
            if self.store_weights == "fp16":
                raise click.UsageError("--store-weights fp16 is for fp32 graphs: add fp32 to --precision")
            if self.verify:
                raise click.UsageError("--verify compares with fp32 graphs: add fp32 to --precision")

    def _refuse_bf16(self) -> None:
        if self.precision is not None and "bf16" in self.precision:
            raise click.UsageError("--precision bf16: no graphs or engines are made for it, fp32 graphs run in it")

    def _given(self, names: tuple[str, ...]) -> str | None:
        """The first of some options that was given, as it is typed."""
        values = {name: getattr(self, name) for name in names}
        found = next((name for name, value in values.items() if value is not None and value is not False), None)
        return None if found is None else f"--{found.replace('_', '-')}"

    @property
    def exported(self) -> tuple[Precision, ...]:
        """The precisions to export."""
        return tuple(graphs_of(precision) for precision in self.precision or ("fp32",))

    def engine_precision(self, bundle: Bundle) -> Precision:
        """The precision to build engines in: the one asked for with `--bundle`, else what `--device tensorrt` takes.

        Raises:
            BundleError: the bundle doesn't have it.
            ExportError: more than one was asked for.
        """
        asked = self.precision if self.bundle is not None and self.precision is not None else ("auto",)
        if len(asked) > 1:
            raise ExportError(f"--precision {','.join(asked)}: engines are built in one precision; give one")
        return graphs_of(choose_precision(bundle, Device("tensorrt"), asked[0]))

    def build_options(self, max_batch: int) -> BuildOptions:
        """The engine builder's options; raises `EngineError` where the batch sizes are out of order."""
        from sharpose.engines.tensorrt.library import BuildOptions

        return BuildOptions(
            max_batch=max_batch,
            min_batch=self.min_batch or 1,
            opt_batch=self.opt_batch,
            workspace_mib=self.workspace,
            optimization_level=self.optimization_level,
            timing_cache=self.timing_cache,
            tf32=self.tf32,
            hardware_compatible=self.hardware_compatible,
            version_compatible=self.version_compatible,
        )
