"""How to build a TensorRT engine, and which of it a flavour can do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sharpose.engines.tensorrt_flavour import TensorRtFlavour
from sharpose.errors import EngineError

__all__ = ["BuildOptions", "check_options"]

_TYPICAL_PEOPLE = 4
_MAX_LEVEL = 5
_JETSON = Path("/etc/nv_tegra_release")


@dataclass(frozen=True)
class BuildOptions:
    """Options of the builder.

    Attributes:
        max_batch: Most people in a run of the coarse stage, and most rows in one of the fine stage.
        min_batch: Fewest; smaller batches are padded.
        opt_batch: The size to choose the fastest kernels for; 4 or max_batch, whichever is less, if None.
        workspace_mib: Most scratch memory; TensorRT's own choice if None.
        optimization_level: 0 (quick to build) to 5 (quick to run); TensorRT's own choice if None.
        timing_cache: A file of kernel timings to read and to extend.
        hardware_compatible: Also run on other GPUs, of the Ampere generation and later.
        version_compatible: Also run with later versions of TensorRT.
    """

    max_batch: int = 16
    min_batch: int = 1
    opt_batch: int | None = None
    workspace_mib: int | None = None
    optimization_level: int | None = None
    timing_cache: Path | None = None
    hardware_compatible: bool = False
    version_compatible: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.min_batch <= self.optimal_batch <= self.max_batch:
            raise EngineError(
                "batch sizes: expected 1 <= min <= opt <= max, got "
                f"min {self.min_batch}, opt {self.optimal_batch}, max {self.max_batch}"
            )
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise EngineError(f"workspace: expected at least 1 MiB, got {self.workspace_mib}")
        if self.optimization_level is not None and not 0 <= self.optimization_level <= _MAX_LEVEL:
            raise EngineError(f"optimization level: expected 0 to {_MAX_LEVEL}, got {self.optimization_level}")

    @property
    def optimal_batch(self) -> int:
        """`opt_batch`, or its default."""
        if self.opt_batch is not None:
            return self.opt_batch
        return max(self.min_batch, min(_TYPICAL_PEOPLE, self.max_batch))


def check_options(options: BuildOptions, flavour: TensorRtFlavour) -> None:
    """Refuse by name what a flavour doesn't do; raises `EngineError`."""
    if flavour.is_rtx:
        # Its builder takes all of these. Tried with 1.7: level 0 and 5 give one plan, the timing cache and hardware
        # compatibility do nothing, and version compatibility looks for a library that isn't there.
        refused = {
            "--optimization-level": options.optimization_level is not None,
            "--timing-cache": options.timing_cache is not None,
            "--hardware-compatible": options.hardware_compatible,
            "--version-compatible": options.version_compatible,
        }
        reason = f"{flavour} doesn't honour it"
    else:
        refused = {"--hardware-compatible": options.hardware_compatible and _JETSON.exists()}
        reason = f"{flavour} doesn't support it on Jetson"
    for name, given in refused.items():
        if given:
            raise EngineError(f"{name}: {reason}; leave it out")
