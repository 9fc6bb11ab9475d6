"""`--verify` on a bundle: real graphs in real engines, tampered ones, labels, and a process without PyTorch."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import helper
from reference_model import reference_crops

from sharpose.bundle import Bundle, Precision, open_bundle
from sharpose.cli import main as run_command
from sharpose.engines.stages import EngineStages, open_stages
from sharpose.errors import BundleError, EngineError, ExportError, SourceError, how_to_install
from sharpose.export import verify as verify_engines
from sharpose.export.cli import command
from sharpose.export.pictures import ParityPictures, load_labels
from sharpose.export.verify import verify_bundle
from sharpose.files import file_sha256
from sharpose.runtime.pipeline import PoseEstimator


@pytest.fixture(scope="module")
def pictures(two_precisions: Bundle) -> ParityPictures:
    return ParityPictures(reference_crops(4, two_precisions.model.crop_size), "blocks of colour")


@pytest.fixture
def images(tmp_path: Path, pictures: ParityPictures) -> Path:
    """The crops as a folder of pictures, 1.png …"""
    folder = tmp_path / "images"
    folder.mkdir()
    for number, crop in enumerate(pictures.crops, start=1):
        cv2.imwrite(str(folder / f"{number}.png"), crop[..., ::-1])
    return folder


def _scale_heatmaps(folder: Path) -> None:
    """Make the half graphs of the fine stage wrong, as a converter might, with a manifest that accepts them."""
    path = folder / "fine.fp16.onnx"
    model = onnx.load(path, load_external_data=False)
    maker = next(node for node in model.graph.node if "heatmaps" in node.output)
    maker.output[list(maker.output).index("heatmaps")] = "unscaled"
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name == "heatmaps":
                node.input[index] = "unscaled"
    model.graph.initializer.append(helper.make_tensor("scale", onnx.TensorProto.FLOAT, [], [1.2]))
    model.graph.node.append(helper.make_node("Mul", ["unscaled", "scale"], ["heatmaps"]))
    path.write_bytes(model.SerializeToString())
    manifest = json.loads((folder / "bundle.json").read_text("utf-8"))
    manifest["files"][path.name] = file_sha256(path)
    (folder / "bundle.json").write_text(json.dumps(manifest), "utf-8")


def _labels(folder: Path, bundle: Bundle, images: Path, joints: int = 17) -> Path:
    """COCO labels that are what the bundle's own fp32 graphs say."""
    annotations = []
    with PoseEstimator.from_bundle(bundle.path, threads=1) as estimator:
        for number in (1, 2):
            image = cv2.imread(str(images / f"{number}.png"))
            assert image is not None
            height, width = image.shape[:2]
            found = estimator(np.asarray(image, np.uint8), [[0, 0, width, height]]).keypoints[0, :joints].copy()
            found[:, 2] = 2
            annotations.append(
                {
                    "id": number,
                    "image_id": number,
                    "category_id": 1,
                    "bbox": [0, 0, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                    "num_keypoints": joints,
                    "keypoints": found.astype(float).ravel().tolist(),
                }
            )
    content = {
        "images": [{"id": number, "file_name": f"{number}.png", "width": 192, "height": 256} for number in (1, 2)],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person"}],
    }
    path = folder / "labels.json"
    path.write_text(json.dumps(content), "utf-8")
    return path


def test_both_precisions_are_run_and_within_tolerance(two_precisions: Bundle, pictures: ParityPictures) -> None:
    result = verify_bundle(two_precisions, pictures)
    assert {("cpu", "fp32"), ("cpu", "fp16")} <= {(item.device, item.precision) for item in result.engines}
    assert result.failures == []
    assert result.average_precision is None
    by_precision = {item.precision: item.report for item in result.engines if item.device == "cpu"}
    assert by_precision["fp32"].keypoint_pixels_median < 1e-3
    assert by_precision["fp16"].keypoint_pixels_median > 1e-5  # half weights: not the same graphs twice
    assert by_precision["fp16"].region_set_agreement >= 0.75


def test_a_wrong_graph_is_named_and_exits_1(
    bundle_copy: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _scale_heatmaps(bundle_copy)
    with pytest.raises(SystemExit) as exit_info:
        run_command(command, ["--bundle", str(bundle_copy), "--verify", "--images", str(images)])
    assert exit_info.value.code == 1
    captured = capsys.readouterr()
    assert "error: engines differ from the float32 graphs: cpu fp16: fine heatmaps off by" in captured.err
    assert "Traceback" not in captured.err
    assert "beyond tolerance" in captured.out
    assert "within tolerance" in captured.out  # the fp32 column


def test_a_bundle_without_fp32_has_no_reference(bundle_copy: Path, pictures: ParityPictures) -> None:
    manifest = json.loads((bundle_copy / "bundle.json").read_text("utf-8"))
    del manifest["graphs"]["fp32"], manifest["parity"]["fp32"]
    for name in ("coarse.onnx", "fine.onnx"):
        del manifest["files"][name]
    (bundle_copy / "bundle.json").write_text(json.dumps(manifest), "utf-8")
    with pytest.raises(BundleError, match="holds fp16 graphs, but verifying needs fp32"):
        verify_bundle(open_bundle(bundle_copy), pictures)


def test_a_listed_device_that_cannot_run_is_reported_not_hidden(
    two_precisions: Bundle, pictures: ParityPictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify_engines, "_gpu_devices", lambda: ["cuda"])

    def refuse(bundle: Bundle, device: str, precision: Precision, **options: object) -> EngineStages:
        if device == "cuda":
            raise EngineError("no cuDNN")
        return open_stages(bundle, device, precision)

    monkeypatch.setattr(verify_engines, "open_stages", refuse)
    result = verify_bundle(two_precisions, pictures)
    assert result.unusable == ("cuda, fp32: no cuDNN", "cuda, fp16: no cuDNN")
    assert len(result.engines) == 2


def test_average_precision_is_that_of_the_whole_pipeline(two_precisions: Bundle, images: Path, tmp_path: Path) -> None:
    labels = load_labels(_labels(tmp_path, two_precisions, images), images, two_precisions.model.skeleton)
    crops = labels.crops(two_precisions.model.crop_size)
    assert crops.crops.shape == (2, *two_precisions.model.crop_size, 3)
    result = verify_bundle(two_precisions, crops, labels)
    assert crops.usage == ["labels.json: 2 people used"]
    assert result.average_precision == pytest.approx(1.0)
    precisions = {item.precision: item.average_precision for item in result.engines if item.device == "cpu"}
    assert precisions["fp32"] == pytest.approx(1.0)
    assert precisions["fp16"] is not None


def test_labels_that_do_not_fit_are_refused(two_precisions: Bundle, images: Path, tmp_path: Path) -> None:
    skeleton = two_precisions.model.skeleton
    with pytest.raises(SourceError, match=r"annotation 1: keypoints: expected 17 keypoints \(coco17\), got 12"):
        load_labels(_labels(tmp_path, two_precisions, images, joints=12), images, skeleton)
    good = _labels(tmp_path, two_precisions, images)
    with pytest.raises(ExportError, match=r"picture .*1\.png is missing; give its folder as --images"):
        load_labels(good, tmp_path, skeleton)
    content = json.loads(good.read_text("utf-8"))
    content["images"][0]["file_name"] = "absent.png"
    good.write_text(json.dumps(content), "utf-8")
    (usage,) = load_labels(good, images, skeleton).usage
    assert usage == "labels.json: 1 person used, 1 left out (1 whose picture can't be read)"
    content["annotations"] = []
    good.write_text(json.dumps(content), "utf-8")
    with pytest.raises(ExportError, match="nobody in it has labelled keypoints"):
        load_labels(good, images, skeleton)
    good.write_text("[]", "utf-8")
    with pytest.raises(SourceError, match="expected COCO keypoint labels"):
        load_labels(good, images, skeleton)
    with pytest.raises(SourceError, match="can't read the labels"):
        load_labels(tmp_path / "none.json", images, skeleton)


def test_labels_without_pycocotools_say_how_to_get_it(
    two_precisions: Bundle, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    with pytest.raises(ExportError, match=re.escape(f"--labels needs pycocotools: {how_to_install('eval')}")):
        load_labels(tmp_path / "labels.json", images, two_precisions.model.skeleton)


_WITHOUT_TORCH = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "onnx", "onnxscript"):
            raise AssertionError(f"imports {name}")

sys.meta_path.insert(0, Block())
from sharpose.export.cli import main
main()
"""


def test_a_bundle_is_verified_without_torch_and_onnx(two_precisions: Bundle, images: Path, tmp_path: Path) -> None:
    arguments = ["--bundle", str(two_precisions.path), "--verify", "--images", str(images)]
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_TORCH, *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "within tolerance" in done.stdout
    assert "4 pictures of images" in " ".join(done.stdout.split())
