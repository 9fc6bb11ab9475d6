"""The GPU's engines, and other programs: what several steps need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gpu_steps.notes import CouldNotRunError, Setup
from sharpose.bundle import Bundle, open_bundle
from sharpose.engines.device import parse_device
from sharpose.engines.gpu import probe_gpu
from sharpose.engines.load import load_two_stage
from sharpose.engines.tensorrt.library import installed_flavours
from sharpose.engines.tensorrt.load import TensorRtSettings
from sharpose.engines.two_stage import TwoStage
from sharpose.errors import EngineError, one_line
from sharpose.export.pictures import scene_pictures
from sharpose.tokens import gather_patches

Crops = npt.NDArray[np.uint8]
"""[n, H, W, 3], RGB."""
Keypoints = npt.NDArray[np.float32]
"""[n, J, 3]: x and y in pixels, score."""
SAME = 0.5
"""Pixels of the crop that a person's keypoints may differ by between kernels, at the median."""
SAME_INT8 = 4.0
"""The same between int8 and float32."""
BENCHMARKS = Path(__file__).parents[1]
"""Their folder, in which other programs run."""


def need_gpu(setup: Setup) -> None:
    """Raises `CouldNotRunError` where the setup's GPU can't be used."""
    try:
        probe_gpu(parse_device(setup.device).index)
    except EngineError as error:
        raise CouldNotRunError(one_line(error)) from None


def bundle_for_gpu(setup: Setup) -> Bundle:
    """The setup's bundle; raises `CouldNotRunError` without a GPU and a TensorRT."""
    need_gpu(setup)
    if not installed_flavours()[0]:
        raise CouldNotRunError("; ".join(installed_flavours()[1]))
    return open_bundle(setup.bundle)


def open_engines(setup: Setup, bundle: Bundle, precision: str = "auto", **settings: Any) -> TwoStage:  # noqa: ANN401
    """The engines; `settings` are those of TensorRtSettings."""
    return load_two_stage(bundle, setup.device, precision=precision, tensorrt=TensorRtSettings(say=say, **settings))


def run_both(stages: TwoStage, bundle: Bundle, crops: Crops) -> tuple[Keypoints, Keypoints]:
    """Keypoints of the coarse and of the fine stage, everybody refined."""
    stages.crops[: len(crops)] = crops
    coarse = stages.run_coarse(len(crops))
    keypoints, rows = coarse.keypoints.copy(), np.arange(len(crops), dtype=np.int32)
    stages.patches[: len(crops)] = gather_patches(crops, rows, coarse.region_order, bundle.model.num_selected)
    return keypoints, stages.run_fine(rows).copy()


def run_once(stages: TwoStage, bundle: Bundle, crops: Crops) -> tuple[Keypoints, Keypoints]:
    """The same, and the engines closed."""
    try:
        return run_both(stages, bundle, crops)
    finally:
        stages.close()


def distance(expected: tuple[Keypoints, Keypoints], found: tuple[Keypoints, Keypoints]) -> float:
    """How far keypoints are apart in crop pixels: the median over a person's, of the person and stage where it is
    largest, so that one wrong row is seen; NaN where one is.
    """
    pairs = zip(expected, found, strict=True)
    moved = [np.median(np.linalg.norm((ours - theirs)[..., :2], axis=-1), axis=-1).max() for ours, theirs in pairs]
    return float(np.max(moved))


def scene_crops(bundle: Bundle, count: int) -> Crops:
    """Crops of so many people of the built-in scene."""
    return scene_pictures(bundle.model.crop_size, count).crops


def say(line: str) -> None:
    """A line for the step's log."""
    print(line, file=sys.stderr)


def run_sharpose(*words: str) -> subprocess.CompletedProcess[str]:
    """A command of the package, run to its end."""
    return call(sys.executable, "-m", "sharpose", *words)


def call(*words: str) -> subprocess.CompletedProcess[str]:
    """A program in the benchmarks' folder, run to its end; what it says goes to the step's log."""
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=BENCHMARKS)
    say(f"{done.stdout}\n{done.stderr}")
    return done


def error_of(done: subprocess.CompletedProcess[str]) -> str:
    """The first line of a program's error; empty where it ended well."""
    return "" if done.returncode == 0 else next(iter(done.stderr.strip().splitlines()), f"exit code {done.returncode}")
