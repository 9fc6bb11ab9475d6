"""All that a command line of `sharpose-run` says, as one checked value."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import click

__all__ = ["RunOptions"]


@dataclass(frozen=True)
class RunOptions:
    """The options by name; `sharpose-run --help` says what each is.

    Raises:
        click.UsageError: options exclude one another, or one would do nothing.
    """

    sources: tuple[str, ...]
    bundle: Path | None
    refine: str
    quality_threshold: float | None
    deadline: float | None
    max_people: int | None
    device: str
    threads: int | None
    engine_cache: Path | None
    cuda_bindings: str | None
    cuda_graphs: bool | None
    detector: str | None
    detector_sha256: str | None
    detector_table: Path | None
    detect_every: int
    conf: float | None
    iou: float | None
    classes: str | None
    boxes: str | None
    full_frame: bool
    track: bool
    smooth: bool
    buffer: str | None
    reconnect: str | None
    timeout: float | None
    rtsp_transport: str | None
    stride: int
    start: float
    duration: float | None
    hwaccel: str | None
    stdin_size: str | None
    stdin_rate: float | None
    output: tuple[str, ...]
    encoder: str
    crf: int | None
    bitrate: int | None
    preset: str | None
    json_file: str | None
    coco_file: str | None
    csv_file: str | None
    openpose: str | None
    mot: str | None
    frames: str | None
    frames_format: str
    show: bool
    serve: str | None
    serve_token: str | None
    kpt_thr: float
    draw_regions: bool
    draw_status: bool
    quiet: bool
    json_logs: bool
    debug: bool

    def __post_init__(self) -> None:
        self._check_people()
        self._check_device()
        if self.quiet and self.json_logs:
            raise click.UsageError("--quiet and --json-logs exclude each other: give one")

    @property
    def outputs(self) -> list[tuple[str, str]]:
        """All that results go to, with the option that it came with, in the order of `--help`."""
        named = {
            "--json": self.json_file,
            "--coco": self.coco_file,
            "--csv": self.csv_file,
            "--openpose": self.openpose,
            "--mot": self.mot,
            "--frames": self.frames,
        }
        given = [(option, target) for option, target in named.items() if target is not None]
        return [*(("--output", target) for target in self.output), *given]

    def _check_people(self) -> None:
        ways = {"--boxes": self.boxes, "--detector": self.detector, "--full-frame": self.full_frame}
        given = [name for name, value in ways.items() if value]
        if len(given) > 1:
            raise click.UsageError(f"{' and '.join(given)} exclude each other: give one")
        if self.detect_every > 1 and self.detector is None:
            raise click.UsageError("--detect-every is for --detector, which isn't given")
        if self.smooth and not self.track:
            raise click.UsageError("--smooth follows people from frame to frame: give --track as well")
        if self.mot is not None and not self.track:
            raise click.UsageError("--mot needs to know who is who: give --track as well")

    def _check_device(self) -> None:
        given = {
            "--engine-cache": self.engine_cache is not None,
            "--cuda-bindings": self.cuda_bindings is not None,
            "--cuda-graphs/--no-cuda-graphs": self.cuda_graphs is not None,
        }
        if self.serve_token is not None and self.serve is None and "SHARPOSE_SERVE_TOKEN" not in os.environ:
            raise click.UsageError("--serve-token is for --serve, which isn't given")
        for name, is_given in given.items():
            if is_given and not self.device.startswith("tensorrt"):
                raise click.UsageError(f"{name} is for --device tensorrt, got --device {self.device}")
