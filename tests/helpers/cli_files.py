"""What the tests of `sharpose-run` give it to read, and how they read what it writes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

PROGRAM = Path(sys.executable).with_name("sharpose-run")
STAGES = ["read", "boxes", "crop", "coarse", "gate", "gather", "fine", "map back", "track", "write"]
SCENE = "scene:frames=4,size=240x320,people=3"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def outputs(folder: Path) -> list[object]:
    return ["--output", folder / "o.mp4", "--json", folder / "o.jsonl", "--coco", folder / "o.json"]


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def people_of(path: Path) -> list[list[dict[str, Any]]]:
    return [line["people"] for line in lines_of(path)]


def frames_of(path: Path) -> int:
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        return sum(1 for _ in container.decode(video=0))


def table_of(text: str) -> dict[str, list[float]]:
    """The numbers of the table that ends a run, by stage."""
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines()]
    return {row[0]: [float(cell) for cell in row[1:]] for row in rows if row[0] in STAGES}


def write_video(path: Path, frames: int = 6, *, faststart: bool = False, still: bool = False) -> Path:
    with av.open(str(path), "w", options={"movflags": "faststart"} if faststart else {}) as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": "0"})
        stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p"
        for index in range(frames):
            noise = np.random.default_rng(0 if still else index).integers(0, 256, (96, 128, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="bgr24")))
        container.mux(stream.encode(None))
    return path


def write_long_video(path: Path, frames: int) -> Path:
    """So many frames, for a run that is to be interrupted: a second of video over and over, which costs no encoding."""
    second = write_video(path.with_name(f"second_{path.name}"), 25, still=True)
    with av.open(str(second)) as clip, av.open(str(path), "w") as container:
        stream, tick = container.add_stream_from_template(clip.streams.video[0]), clip.streams.video[0].time_base
        packets = [(packet.pts, bytes(packet), packet.is_keyframe) for packet in clip.demux(video=0) if packet.size]
        for start in range(0, frames, 25):
            for time, data, is_keyframe in packets:
                packet = av.Packet(data)
                packet.stream, packet.time_base, packet.is_keyframe = stream, tick, is_keyframe
                packet.pts = packet.dts = time + int(start / 25 / tick)
                container.mux(packet)
    second.unlink()
    return path


def write_boxes(path: Path, boxes: Sequence[tuple[int, Sequence[float], float]]) -> Path:
    entries = [{"image_id": i, "category_id": 1, "bbox": list(box), "score": score} for i, box, score in boxes]
    path.write_text(json.dumps(entries))
    return path


def write_detector(path: Path, **constants: np.ndarray) -> Path:
    """A graph of one input [1, 3, 96, 128] that says the same of every picture."""
    types = {"f": TensorProto.FLOAT, "i": TensorProto.INT64}
    graph = helper.make_graph(
        [helper.make_node("Identity", [f"{name}_value"], [name]) for name in constants],
        "detector",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 96, 128])],
        [helper.make_tensor_value_info(n, types[v.dtype.kind], v.shape) for n, v in constants.items()],
        [numpy_helper.from_array(value, f"{name}_value") for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path
