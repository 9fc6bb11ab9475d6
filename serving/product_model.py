"""Both stages behind one model of Triton's Python backend, on any of the product's devices.

The repository's own `model.py` only imports `TritonPythonModel` from here, so that what is served is what is tested and
installed with the rest. Parameters of its `config.pbtxt`, all of them texts, say how to run: `device`, `precision`,
`threads` and `batch`, as `sharpose-run` takes them; empty for the default.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sharpose.bundle import open_bundle
from sharpose.engines.batches import settle
from sharpose.engines.choose import load_on
from sharpose.engines.device import parse_device
from sharpose.engines.load import load_two_stage
from sharpose.engines.two_stage import TwoStage
from sharpose.errors import InputError, SharposeError
from sharpose.serving.contract import KEYPOINTS, QUALITY, REFINED, REGION_ORDER, ServedModel
from sharpose.serving.gate_model import BatchingModel, Crops, Outputs, Thresholds, Untyped
from sharpose.tokens import gather_patches

_logger = logging.getLogger("sharpose")

BUNDLE_FOLDER = "bundle"
"""Where the bundle lies in the model's version folder."""


class TritonPythonModel(BatchingModel):
    """The model that `sharpose-export --triton` writes; Triton makes one for each instance."""

    _stages: TwoStage | None = None
    _log: logging.Handler | None = None

    def load(self, folder: str) -> None:
        """See `BatchingModel.load`."""
        self._log = _TritonLog(self._triton.Logger)
        _logger.addHandler(self._log)
        _logger.setLevel(logging.INFO)
        try:
            self._load(Path(folder) / BUNDLE_FOLDER)
        except SharposeError as error:
            raise self._triton.TritonModelException(str(error)) from error

    def _load(self, folder: Path) -> None:
        bundle = open_bundle(folder)
        served = ServedModel.of(bundle)
        described = self.parameters.get("bundle_sha256", "")
        if described != served.bundle_sha256:
            raise InputError(
                f"bundle {folder}: expected the one that config.pbtxt describes (bundle_sha256 {described[:12]}…), got "
                f"{served.bundle_sha256[:12]}…; write the repository again with sharpose-export --triton"
            )
        if self.max_batch > served.max_batch:
            raise InputError(
                f"max_batch_size: expected at most {served.max_batch}, the bundle's, got {self.max_batch}; edit "
                "config.pbtxt, or export the bundle with --max-batch"
            )
        self._selected = served.selected
        threads = self._number("threads", 4 * (os.cpu_count() or 1))
        precision = self.parameters.get("precision") or "auto"

        def load(device: str) -> TwoStage:
            tensorrt = None
            if parse_device(device).kind == "tensorrt":  # needs packages that a server without a GPU needn't have
                from sharpose.engines.tensorrt.load import TensorRtSettings

                tensorrt = TensorRtSettings(tf32=False)  # as sharpose-run without --tf32, and as --verify compares it
            return load_two_stage(bundle, device, precision=precision, threads=threads, tensorrt=tensorrt)

        stages = self._stages = load_on(self.parameters.get("device") or "cpu", load)
        largest = min(self.max_batch, stages.max_batch)  # engines may take fewer than the bundle's max batch
        batch = self._number("batch", largest)
        self._most = batch or largest
        self._run_black(1)
        if batch is None and stages.coarse_buckets.divisible:
            settle(stages.coarse_buckets, stages.fine_buckets, self._run_black, time.perf_counter, stages.batch_cache)
        cut = f", at most {largest} crops a run" if largest < self.max_batch else ""
        _logger.info(f"serves bundle {served.bundle_sha256[:12]} on {stages.device} in {stages.precision}{cut}")

    def _number(self, name: str, most: int) -> int | None:
        """A parameter that is a number from 1; None where it is empty."""
        text = self.parameters.get(name) or ""
        if not text:
            return None
        if not (text.isascii() and text.isdigit() and len(text) < 6 and 1 <= int(text) <= most):
            raise InputError(f"parameter {name}: expected 1 to {most}, or an empty text, got {text[:40]!r}")
        return int(text)

    def run(self, crops: Sequence[Crops], thresholds: Thresholds) -> Outputs:
        """See `BatchingModel.run`."""
        most = self._most
        if len(thresholds) <= most:
            return self._run_chunk(crops, thresholds)
        whole = np.concatenate(crops)
        starts = range(0, len(whole), most)
        chunks = [self._run_chunk([whole[i : i + most]], thresholds[i : i + most]) for i in starts]
        return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}

    def _run_chunk(self, crops: Sequence[Crops], thresholds: Thresholds) -> Outputs:
        """Both stages for crops that fit the buffers, written straight into them."""
        stages = self._stages
        assert stages is not None
        people = len(thresholds)
        np.concatenate(crops, out=stages.crops[:people])
        coarse = stages.run_coarse(people)
        refined = coarse.quality < thresholds
        # The stages' own arrays are overwritten by the next run.
        keypoints, quality, order = coarse.keypoints.copy(), coarse.quality.copy(), coarse.region_order.copy()
        rows = np.flatnonzero(refined).astype(np.int32)
        if len(rows):
            gather_patches(stages.crops, rows, order, self._selected, stages.patches)
            keypoints[rows] = stages.run_fine(rows)
        return {
            KEYPOINTS.name: keypoints,
            QUALITY.name: quality[:, None],
            REFINED.name: refined[:, None],
            REGION_ORDER.name: order,
        }

    def _run_black(self, people: int) -> tuple[float, float]:
        """Both stages for so many black crops; their seconds."""
        stages = self._stages
        assert stages is not None
        stages.crops[:people] = 0
        began = time.perf_counter()
        order = stages.run_coarse(people).region_order
        between = time.perf_counter()
        rows = np.arange(people, dtype=np.int32)
        gather_patches(stages.crops, rows, order, self._selected, stages.patches)
        stages.run_fine(rows)
        return between - began, time.perf_counter() - between

    def finalize(self) -> None:
        """Called by Triton when the model is unloaded."""
        if self._stages is not None:
            self._stages.close()
        if self._log is not None:
            _logger.removeHandler(self._log)


class _TritonLog(logging.Handler):
    """Hands what the product logs on to Triton's log, `pb_utils.Logger`."""

    def __init__(self, logger: Untyped) -> None:
        super().__init__(logging.INFO)
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler.emit`."""
        writers = {logging.INFO: self._logger.log_info, logging.WARNING: self._logger.log_warn}
        writers.get(record.levelno, self._logger.log_error)(self.format(record))
