"""What int8 does to poses, by kind of layer: `python benchmarks/quantisation.py --images DIR --output DIR`.

One kind of linear layer at a time gets 8 bits, in PyTorch that rounds as exported graphs do, calibrated on half of the
people and compared on the other half with the float32 model; then all of them, and all of them quantised in other ways.
"""

from __future__ import annotations

if __name__ == "__main__":  # Ctrl-C while modules are imported
    from sharpose.__main__ import end_on_signals

    end_on_signals()
    from measuring.command import require

    require("torch", "onnx")

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

import click
import numpy as np
from measuring.command import begin, bundle_option, report_options
from measuring.page import table
from report import (
    benchmark_command,
    command_to_repeat,
    kept_when_interrupted,
    write_file,
)

from sharpose.bundle import shipped_bundle
from sharpose.cli import main as run_command
from sharpose.cli import option
from sharpose.config import ModelConfig
from sharpose.export import quantisation
from sharpose.export.parity import StageRuns, run_stages
from sharpose.export.pictures import choose_pictures
from sharpose.model import load_model
from sharpose.model.graphs import TorchStages

KINDS = {
    "query, key and value": "attn.qkv",
    "output of attention": "attn.proj",
    "first layer of MLPs": "blocks.*mlp.fc1",
    "second layer of MLPs": "blocks.*mlp.fc2",
    "head": "keypoint_head",
    "reuse MLP": "reuse_block",
    "patch embedding, fine stage": "patch_embed",
    "quality head": "quality_predictor",
}
"""Kinds of layers, with parts of their names, in order, and `*` between."""
ALL = "all but the quality head"
VARIANTS: dict[str, dict[str, Any]] = {
    f"{ALL}, ranges up to the largest value": {"_CLIPS": np.ones(1)},
    f"{ALL}, channels not balanced": {"_smooth": lambda *parts: None},
    f"{ALL}, weights in 8 bits": {"_WEIGHT_TOP": 127},
}
"""Other ways, with what they change in `export/quantisation.py`."""
_BATCH = (8,)
_MODEL, _PICTURES = "Model", "Pictures"

Row = dict[str, Any]


def is_of(kind: str, name: str) -> bool:
    """Whether a linear layer is of one of `KINDS`."""
    return all(part in name for part in KINDS[kind].split("*"))


def difference(reference: StageRuns, found: StageRuns, config: ModelConfig) -> Row:
    """How far int8 is from float32.

    Returns:
        `regions`, the share of the selected ones that are the same; `quality`, its mean change; `median_px` and
        `p90_px`, how far keypoints moved in crop pixels where everybody is refined.
    """
    selected = [runs.coarse["region_order"][:, : config.num_selected] for runs in (reference, found)]
    before, after = (runs.whole["keypoints"][..., :2].astype(np.float64) for runs in (reference, found))
    moved = np.asarray(np.subtract(after, before), np.float64)
    pixels = np.hypot(moved[..., 0], moved[..., 1])
    return {
        "regions": float(np.mean([np.isin(*pair).mean() for pair in zip(*selected, strict=True)])),
        "quality": float(np.abs(np.subtract(reference.coarse["quality"], found.coarse["quality"])).mean()),
        "median_px": float(np.median(pixels)),
        "p90_px": float(np.percentile(pixels, 90)),
    }


def write_page(report: dict[str, Any], machine: str) -> str:
    """The report as a Markdown page."""
    header = ["in 8 bits", "same regions", "change of quality, mean", "keypoints moved, median", "90th percentile"]
    cells = [
        [
            row["layers"],
            f"{row['regions']:.1%}",
            f"{row['quality']:.4f}",
            *(f"{row[name]:.2f} px" for name in ("median_px", "p90_px")),
        ]
        for row in report["rows"]
    ]
    about = f"{report['weights']}: {report['compared']} people compared, calibrated on {report['calibrated']}, of "
    lines = ["# Int8 by kind of layer", "", machine, "", f"`{report['command']}`", "", f"{about}{report['pictures']}."]
    return "\n".join([*lines, "", *table(header, cells)]) + "\n"


@benchmark_command(
    "python benchmarks/quantisation.py --output out",
    "python benchmarks/quantisation.py --bundle bundle --images DIR --labels FILE --output out",
)
@bundle_option(_MODEL, "Bundle or checkpoint whose weights are quantised.")
@option(
    _PICTURES,
    "--images",
    type=click.Path(path_type=Path),
    help="Folder of pictures, one person each; half of them calibrate.  [default: the built-in scene]",
)
@option(_PICTURES, "--labels", type=click.Path(path_type=Path), help="COCO keypoints: the people in --images.")
@report_options("quantisation.md and quantisation.json", "rows")
def command(
    bundle: Path | None, images: Path | None, labels: Path | None, output: Path, overwrite: bool, debug: bool
) -> int:
    """Measure what each kind of layer in 8 bits does to regions, quality and keypoints."""
    if labels is not None and images is None:
        raise click.UsageError("--labels: needs --images, the folder of its pictures")
    machine = begin(output, "quantisation.md", "quantisation.json", overwrite=overwrite)
    loaded = load_model(bundle or shipped_bundle())
    model, config = loaded.model.eval(), loaded.config
    pictures, _ = choose_pictures(images, labels, config, int8=True)
    rows: list[Row] = []
    report = {
        "weights": loaded.source,
        "command": command_to_repeat("quantisation.py"),
        "machine": asdict(machine),
        "pictures": pictures.origin,
        "compared": len(pictures.crops),
        "calibrated": len(pictures.calibration),
        "rows": rows,
    }

    def write() -> None:
        write_file(output / "quantisation.json", json.dumps(report, indent=1) + "\n")
        write_file(output / "quantisation.md", write_page(report, str(machine)))
        click.echo(f"wrote {output / 'quantisation.md'} and {output / 'quantisation.json'}")

    def measure(layers: str, chosen: Callable[[str], bool] | None, changes: dict[str, Any]) -> None:
        with mock.patch.dict(vars(quantisation), changes):
            quantised = quantisation.int8_model(model, pictures.calibration, chosen)
        found = run_stages(TorchStages(quantised), pictures.crops, _BATCH)
        rows.append({"layers": layers, **difference(reference, found, config)})
        click.echo(f"{layers}: regions {rows[-1]['regions']:.1%}, keypoints moved {rows[-1]['median_px']:.2f} px")

    reference = run_stages(TorchStages(model), pictures.crops, _BATCH)
    with kept_when_interrupted(rows, "row", output, write):
        for kind in KINDS:
            measure(kind, lambda name, kind=kind: is_of(kind, name), {})  # type: ignore[misc]
        for layers, changes in {ALL: {}, **VARIANTS}.items():
            measure(layers, None, changes)
        write()
    return 0


def main() -> NoReturn:
    """Entry point."""
    run_command(command)


if __name__ == "__main__":
    main()
