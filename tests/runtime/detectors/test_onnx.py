"""Graphs, devices, options and pictures that a detector refuses; --conf, --iou and --classes."""

from __future__ import annotations

import os
import re
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from detector_graphs import ANCHORS, FLOAT, SIZE, picture, save, says, yolov8_columns, yolox_rows
from onnx import TensorProto, helper

from sharpose.engines.base import GraphError
from sharpose.engines.load import OnnxRuntimeSettings
from sharpose.engines.tensorrt import graph as tensorrt_graph
from sharpose.errors import DetectorError, EngineError, InputError, how_to_install
from sharpose.runtime.boxes.file import BoxesFile
from sharpose.runtime.boxes.sources import FileBoxes
from sharpose.runtime.detectors.onnx import COCO_CLASSES, Detector, PeopleFrom, check_detector_options, parse_classes
from sharpose.runtime.frames import Frame


def refused(path: Path, **options: object) -> str:
    with pytest.raises(DetectorError) as caught:
        Detector.from_onnx(path, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert "\n" not in message
    assert message.startswith(f"detector {path}: ")
    return message


@pytest.mark.parametrize(
    "shape",
    [
        (1, 1000),
        (1, 3, 96, 128),
        (1, 8400, 8),  # anchors of 640x640
        (1, 8, 8400),
        (1, 300, 7),
        (1, 3 * ANCHORS, 8),  # anchor boxes, as YOLOv5 has
        (2, ANCHORS, 8),
        (1, ANCHORS, 5),
        (1, 4, ANCHORS),
        (ANCHORS, 8),
        (1,),
    ],
)
def test_other_outputs_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    message = refused(says(tmp_path / "d.onnx", probs=np.zeros(shape, np.float32)))
    assert f"probs float32 {list(shape)}" in message
    for family in ("YOLOX", "YOLOv8-style", "YOLO end-to-end", "or end-to-end"):
        assert family in message


def test_wrong_size_names_the_anchors(tmp_path: Path) -> None:
    message = refused(says(tmp_path / "d.onnx", output=np.zeros((1, 8400, 85), np.float32)))
    assert "96x128 has 252 anchors" in message


def test_shape_that_two_families_have_is_refused(tmp_path: Path) -> None:
    message = refused(says(tmp_path / "d.onnx", output=np.zeros((1, ANCHORS, ANCHORS), np.float32)))
    assert "another input size" in message


def test_other_output_kinds_are_refused(tmp_path: Path) -> None:
    rows = np.zeros((1, ANCHORS, 8))
    assert "int64" in refused(says(tmp_path / "i.onnx", output=rows.astype(np.int64)))
    two = {"a": rows.astype(np.float32), "b": rows.astype(np.float32)}
    assert "b float32 [1, 252, 8]" in refused(says(tmp_path / "2.onnx", **two))
    dets, labels = np.zeros((1, 4, 5), np.float32), np.zeros((1, 4), np.int64)
    bad = [(dets[0], labels), (dets[:, :, :4], labels), (dets, labels[0]), (dets, labels[:, :3]), (labels, labels)]
    for place, (d, lab) in enumerate(bad):
        assert "expected dets float [1, n, 5] and labels [1, n]" in refused(
            says(tmp_path / f"e{place}.onnx", dets=d, labels=lab)
        )


def test_sequence_output_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.onnx"
    graph = helper.make_graph(
        [helper.make_node("SequenceConstruct", ["images"], ["all"])],
        "detector",
        [helper.make_tensor_value_info("images", FLOAT, (1, 3, *SIZE))],
        [helper.make_tensor_sequence_value_info("all", FLOAT, None)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    assert "seq(tensor(float))" in refused(path)


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        (FLOAT, (1, *SIZE, 3)),
        (FLOAT, (3, *SIZE)),
        (FLOAT, (8, 3, *SIZE)),
        (FLOAT, (1, 1, *SIZE)),
        (FLOAT, (1, 3)),
        (TensorProto.UINT8, (1, 3, *SIZE)),
        (TensorProto.DOUBLE, (1, 3, *SIZE)),
    ],
)
def test_other_inputs_are_refused(tmp_path: Path, dtype: int, shape: tuple[int, ...]) -> None:
    node = helper.make_node("Identity", ["images"], ["output"])
    path = save(tmp_path / "d.onnx", [node], [("output", dtype, shape)], inputs=[("images", dtype, shape)])
    message = refused(path)
    assert "expected one picture as input" in message
    assert str(list(shape)) in message


def test_two_inputs_are_refused(tmp_path: Path) -> None:
    inputs = [("images", FLOAT, (1, 3, *SIZE)), ("scale", FLOAT, (1, 3, 1, 1))]
    node = helper.make_node("Mul", ["images", "scale"], ["output"])
    assert "scale" in refused(save(tmp_path / "d.onnx", [node], [("output", FLOAT, (1, 3, *SIZE))], inputs=inputs))


def test_graph_that_does_not_run_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Dynamic in name only: it wants 96x128, and is run at 640x640."""
    nodes = [helper.make_node("Reshape", ["images", "shape"], ["output"])]
    path = save(
        tmp_path / "d.onnx",
        nodes,
        [("output", FLOAT, (1, "anchors", 8))],
        inputs=[("images", FLOAT, (1, 3, "h", "w"))],
        constants={"shape": np.array([1, 3 * 96 * 128 // 8, 8])},
    )
    assert "does not run at its input size 640x640" in refused(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("task", ["pose", "segment", "obb", "classify"])
def test_exports_for_other_tasks_are_refused(tmp_path: Path, task: str) -> None:
    path = says(tmp_path / "d.onnx", output0=yolov8_columns())
    model = onnx.load(path)
    helper.set_model_props(model, {"task": task})
    onnx.save(model, path)
    assert f"task '{task}'" in refused(path)
    helper.set_model_props(model, {"task": "detect"})
    onnx.save(model, path)
    assert Detector.from_onnx(path).family.name == "YOLOv8-style"


def test_files_that_are_no_graphs_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "found nothing" in refused(tmp_path / "missing.onnx")
    assert "found a folder" in refused(tmp_path)
    good = says(tmp_path / "d.onnx", output0=yolov8_columns()).read_bytes()
    (tmp_path / "empty.onnx").touch()
    assert "found an empty file" in refused(tmp_path / "empty.onnx")
    for content in (b"hello, this is no graph\n", good[: len(good) // 2], bytes(1000)):
        path = tmp_path / "bad.onnx"
        path.write_bytes(content)
        assert "expected an ONNX graph" in refused(path)
    assert capfd.readouterr() == ("", "")


def test_devices(tmp_path: Path) -> None:
    path = says(tmp_path / "d.onnx", output0=yolov8_columns())
    assert len(Detector.from_onnx(path, device="cpu")(picture(9, 9))) == 0
    found = Detector.from_onnx(path, device="auto")
    assert found.device in ("cpu", "openvino:CPU") or "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    assert len(found(picture(9, 9))) == 0
    with pytest.raises(DetectorError, match="expected an ONNX graph that cpu runs"):
        Detector.from_onnx(__file__, device="auto")
    for device in ("gpu", "cuda:x", "tensorrt:", ""):
        with pytest.raises(EngineError, match=r"expected (one of )?cpu, cuda"):
            Detector.from_onnx(path, device=device)


def test_the_first_device_that_can_run_the_graph_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *_: object) -> None:
        raise GraphError(f"{path}: TensorRT can't parse it: no such operator")

    monkeypatch.setattr(tensorrt_graph, "load_tensorrt_graph", refuse)
    path, lines = says(tmp_path / "d.onnx", output0=yolov8_columns((60, 40, 20, 10, 0.8, 0, 0))), list[str]()
    settings = OnnxRuntimeSettings(say=lines.append)
    detector = Detector.from_onnx(path, device=("tensorrt:0", "cpu"), onnxruntime=settings)
    assert detector.device == "cpu"
    np.testing.assert_allclose(detector(picture(*SIZE)).xyxy, [[50, 35, 70, 45]])
    assert lines == ["d.onnx can't run on tensorrt:0: TensorRT can't parse it: no such operator; trying cpu"]
    assert "TensorRT can't parse it: no such operator" in refused(path, device="tensorrt")  # asked for, never replaced
    detector.close()
    with pytest.raises(EngineError, match="closed"):
        detector(picture(*SIZE))


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this onnxruntime has CUDA"
)
@pytest.mark.parametrize("device", ["cuda", "cuda:1", "ort-tensorrt"])
def test_missing_gpu_provider_is_an_error(tmp_path: Path, device: str) -> None:
    path = says(tmp_path / "d.onnx", output0=yolov8_columns())
    with pytest.raises(EngineError, match=re.escape(how_to_install("gpu"))):
        Detector.from_onnx(path, device=device)


def test_missing_onnxruntime_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = says(tmp_path / "d.onnx", output0=yolov8_columns())
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EngineError, match=re.escape(how_to_install("cpu"))):
        Detector.from_onnx(path)


def test_options_are_checked(tmp_path: Path) -> None:
    path = says(tmp_path / "d.onnx", output0=yolov8_columns())
    for options in ({"conf": 1.5}, {"conf": float("nan")}, {"iou": -0.1}):
        with pytest.raises(InputError, match="conf and iou"):
            Detector.from_onnx(path, **options)  # type: ignore[arg-type]
    for classes in ((), (3,), (0, -1)):
        with pytest.raises(InputError, match="among its 3"):
            Detector.from_onnx(path, classes=classes)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((5, 5), np.uint8),
        np.zeros((5, 5, 4), np.uint8),
        np.zeros((5, 5, 3), np.float32),
        np.zeros((0, 5, 3), np.uint8),
    ],
)
def test_other_pictures_are_refused(tmp_path: Path, image: np.ndarray) -> None:
    detector = Detector.from_onnx(says(tmp_path / "d.onnx", output0=yolov8_columns()))
    with pytest.raises(InputError, match=r"uint8 \[H, W, 3\]"):
        detector(image)


def test_coco_has_eighty_classes() -> None:
    assert len(set(COCO_CLASSES)) == 80
    assert (COCO_CLASSES[0], COCO_CLASSES[16], COCO_CLASSES[79]) == ("person", "dog", "toothbrush")


@pytest.mark.parametrize(
    ("text", "ids"),
    [("person", (0,)), ("0,16", (0, 16)), (" Dog , sports ball", (16, 32)), ("120", (120,))],
)
def test_classes(text: str, ids: tuple[int, ...]) -> None:
    assert parse_classes(text) == ids


@pytest.mark.parametrize("text", ["", "human", "0,,1", "-1", "1.5", "0,person", "²"])
def test_classes_that_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="--classes"):
        parse_classes(text)


@pytest.mark.parametrize(
    ("people_from", "given", "refused"),
    [
        ("boxes", {"iou": 0.5}, "--iou"),
        ("boxes", {"classes": "person"}, "--classes"),
        ("motion", {"conf": 0.5}, "--conf"),
        ("full-frame", {"conf": 0.5}, "--conf"),
        ("scene", {"classes": "0"}, "--classes"),
        ("detector", {"conf": 1.01}, "--conf"),
        ("detector", {"iou": float("nan")}, "--iou"),
        ("detector", {"classes": "wolf"}, "--classes"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(
    people_from: PeopleFrom, given: dict[str, float | str], refused: str
) -> None:
    options = {"conf": None, "iou": None, "classes": None} | given
    with pytest.raises(InputError, match=refused) as caught:
        check_detector_options(people_from, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_options_that_do_something_pass() -> None:
    check_detector_options("detector", conf=0.5, iou=0.5, classes="person,dog")
    check_detector_options("boxes", conf=0, iou=None, classes=None)
    check_detector_options("motion", conf=None, iou=None, classes=None)


def test_conf_leaves_a_files_poor_boxes_out(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    path.write_text(
        '[{"image_id": 0, "bbox": [1, 2, 3, 4], "score": 0.4}, {"image_id": 0, "bbox": [5, 6, 7, 8], "score": 0.5}]'
    )
    frame = Frame(picture(20, 20), 0, 0.0, 0)
    assert len(FileBoxes(BoxesFile.load(path)).boxes_for(frame)) == 2
    np.testing.assert_array_equal(FileBoxes(BoxesFile.load(path), 0.5).boxes_for(frame).xyxy, [[5, 6, 12, 14]])


def test_iou_is_refused_where_the_graph_suppresses_overlaps_itself(tmp_path: Path) -> None:
    path = says(tmp_path / "e.onnx", dets=np.zeros((1, 1, 5), np.float32), labels=np.zeros((1, 1), np.int64))
    assert Detector.from_onnx(path).iou == 0.65
    with pytest.raises(InputError, match="iou would do nothing"):
        Detector.from_onnx(path, iou=0.65)


def test_classes_and_iou_reach_the_detector(tmp_path: Path) -> None:
    rows = [(0, [2, 2, 1, 1, 1, 0.9, 0, 0]), (1, [1, 2, 1, 1, 1, 0, 0, 0.8]), (40, [2, 2, 1, 1, 1, 0.7, 0, 0])]
    path = says(tmp_path / "d.onnx", output=yolox_rows(*rows))
    image = picture(96, 128)
    assert len(Detector.from_onnx(path)(image)) == 2
    np.testing.assert_allclose(Detector.from_onnx(path, classes=(2,))(image).scores, [0.8], atol=1e-6)
    assert len(Detector.from_onnx(path, classes=(0, 2))(image)) == 3
    assert len(Detector.from_onnx(path, conf=0.75)(image)) == 1


@pytest.mark.parametrize(
    ("output", "assumed"),
    [
        ({"output": yolox_rows()}, "YOLOX and fed 96x128 (HxW), BGR, values 0 to 255, no mean or std subtracted"),
        ({"output0": yolov8_columns()}, "YOLOv8-style and fed 96x128 (HxW), RGB, values 0 to 1, no mean"),
        (
            {"dets": np.array([[[0, 0, 9, 9, 0.05]]], np.float32), "labels": np.zeros((1, 1), np.int64)},
            "the best score was 0.05, with conf 0.3; d.onnx was taken for end-to-end and fed 96x128 (HxW), BGR",
        ),
    ],
)
def test_thirty_pictures_without_anybody_are_warned_of_once(
    tmp_path: Path, output: dict[str, np.ndarray], assumed: str
) -> None:
    detector = Detector.from_onnx(says(tmp_path / "d.onnx", **output))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(29):
            detector(picture(*SIZE))
        assert caught == []
        for _ in range(70):
            detector(picture(*SIZE))
    (warning,) = caught
    assert str(warning.message).startswith("nobody was found in the first 30 pictures; ")
    assert assumed in str(warning.message)
    assert "--detector-mean 103.53,116.28,123.675 --detector-std 57.375,57.12,58.395" in str(warning.message)
    assert warning.filename == __file__


def test_no_warning_where_somebody_was_found(tmp_path: Path) -> None:
    box = np.array([[[0, 0, 9, 9, 0.9]]], np.float32)
    detector = Detector.from_onnx(says(tmp_path / "d.onnx", dets=box, labels=np.zeros((1, 1), np.int64)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(100):
            detector(picture(*SIZE))
    assert detector.best_score == pytest.approx(0.9)


def test_closing_waits_for_the_call_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    box = np.array([[[0, 0, 9, 9, 0.9]]], np.float32)
    detector = Detector.from_onnx(says(tmp_path / "d.onnx", dets=box, labels=np.zeros((1, 1), np.int64)))
    run, closing = detector._runner.run, threading.Thread(target=detector.close)

    def closed_meanwhile(*inputs: Any) -> object:
        closing.start()
        closing.join(0.1)
        return run(*inputs)

    monkeypatch.setattr(detector._runner, "run", closed_meanwhile)
    assert len(detector(picture(*SIZE))) == 1
    monkeypatch.undo()
    closing.join(10)
    with pytest.raises(EngineError, match="closed"):
        detector(picture(*SIZE))


def test_eight_threads_and_a_forked_process(tmp_path: Path) -> None:
    from detector_graphs import FED, finder

    red, threshold = FED["yolox"]
    detector = Detector.from_onnx(finder(tmp_path / "d.onnx", "yolox", threshold=threshold, red=red))
    wrong: list[object] = []

    def find(index: int) -> None:
        image = picture(*SIZE)
        image[10 : 40 + index, 20 : 60 + index] = (0, 0, 255)
        for _ in range(50):
            found = detector(image).xyxy.round().tolist()
            if found != [[20, 10, 60 + index, 40 + index]]:
                wrong.append(found)

    threads = [threading.Thread(target=find, args=[index]) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert wrong == []
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            detector(picture(*SIZE))
        except BaseException as error:
            os.write(writing, str(error).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as said:
        assert "d.onnx: expected to be called in process" in said.read()
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mean": "abc"}, "detector mean: expected three numbers, one for each channel, got 'abc'"),
        ({"mean": 5}, "detector mean: expected three numbers, one for each channel, got 5"),
        ({"mean": (1e38, 1e39, 1e300)}, "within ±65504, got"),
        ({"std": (0, 1, 1)}, "detector std: expected grey levels of 1 or more"),
        ({"rgb": "yes"}, "detector rgb: expected True or False, got 'yes'"),
    ],
)
def test_settings_are_checked_before_a_download(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], words: str
) -> None:
    monkeypatch.setenv("SHARPOSE_DETECTOR_MIRROR", "http://127.0.0.1:9/none")
    with pytest.raises(InputError, match=words):
        Detector.from_name(**settings)
    with pytest.raises(EngineError, match="got 'bogus'"):
        Detector.from_name(device="bogus")


def test_classes_that_a_graph_has_not_are_named(tmp_path: Path) -> None:
    path = says(tmp_path / "d.onnx", output0=yolov8_columns())
    with pytest.raises(InputError, match=r"expected classes among its 3, got 15 \(cat\), 99$"):
        Detector.from_onnx(path, classes=(15, 99))
