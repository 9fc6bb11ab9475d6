"""`--verify` on a bundle: real graphs in real engines, tampered ones, labels, and a process without PyTorch."""

from __future__ import annotations

import errno
import io
import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper
from reference_model import reference_crops
from rich.console import Console

from sharpose.bundle import MOST_VERIFIED, BatchTime, Bundle, Precision, change_manifest, open_bundle
from sharpose.bundle import folder as bundle_folder
from sharpose.cli import main as run_command
from sharpose.engines.device import cpu_text, parse_device
from sharpose.engines.openvino import find_device, import_openvino
from sharpose.engines.precision import RunPrecision, ap_lost, graphs_of
from sharpose.errors import BundleError, ExportError, SinkError, SourceError, how_to_install
from sharpose.export import verify as verify_engines
from sharpose.export.cli import command
from sharpose.export.pictures import ParityPictures, load_labels
from sharpose.export.verify import Verification, VerifiedEngine, keep_verification, print_verification, verify_bundle
from sharpose.files import file_sha256
from sharpose.runtime.pipeline import PoseEstimator

pytestmark = pytest.mark.usefixtures("few_turns")


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


@pytest.fixture
def enough(tmp_path: Path, two_precisions: Bundle) -> Path:
    """A folder of 16 pictures: so many that a verification counts."""
    folder = tmp_path / "enough"
    folder.mkdir()
    for number, crop in enumerate(reference_crops(16, two_precisions.model.crop_size)):
        cv2.imwrite(str(folder / f"{number:02}.png"), crop[..., ::-1])
    return folder


def _verify(bundle: Path, images: Path, *arguments: str) -> int:
    with pytest.raises(SystemExit) as exit_info:
        run_command(command, ["--bundle", str(bundle), "--verify", "--images", str(images), *arguments])
    assert isinstance(exit_info.value.code, int)
    return exit_info.value.code


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


@pytest.mark.usefixtures("on_cpu_alone")
def test_both_precisions_are_run_and_within_tolerance(two_precisions: Bundle, pictures: ParityPictures) -> None:
    result = verify_bundle(two_precisions, pictures)
    assert {("cpu", "fp32"), ("cpu", "fp16")} <= {(item.device, item.precision) for item in result.engines}
    assert result.failures == []
    assert result.average_precision is None
    by_precision = {item.precision: item.report for item in result.engines if item.device == "cpu"}
    assert by_precision["fp32"].keypoint_pixels_median < 1e-3
    assert by_precision["fp16"].keypoint_pixels_median > 1e-5  # half weights: not the same graphs twice
    assert by_precision["fp16"].region_set_agreement >= 0.75


@pytest.mark.usefixtures("on_cpu_alone")
def test_a_wrong_graph_is_named_and_exits_1(
    bundle_copy: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _scale_heatmaps(bundle_copy)
    assert _verify(bundle_copy, images) == 1
    captured = capsys.readouterr()
    assert "error: engines differ from the float32 graphs: cpu fp16: fine heatmaps off by" in captured.err
    assert "Traceback" not in captured.err
    assert "beyond tolerance" in captured.out
    assert "within tolerance" in captured.out  # the fp32 column
    fp32, fp16 = open_bundle(bundle_copy).manifest.verified
    assert (fp32.parity.failures, len(fp16.parity.failures)) == ((), 1)


@pytest.mark.usefixtures("on_cpu_alone")
def test_int8_is_not_judged_on_the_people_that_it_was_calibrated_on(
    bundle_copy: Path, enough: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crops = []

    def keep(bundle: Bundle, pictures: ParityPictures, *words: object, **rest: object) -> Verification:
        crops.append(pictures.crops)
        return Verification(pictures.origin, len(pictures.crops), (), (), None)

    monkeypatch.setattr(verify_engines, "verify_bundle", keep)
    monkeypatch.setattr(verify_engines, "print_verification", lambda *words: None)
    monkeypatch.setattr(verify_engines, "keep_verification", lambda *words: "")
    assert _verify(bundle_copy, enough) == 0
    parity = open_bundle(bundle_copy).manifest.parity
    calibrated = parity["fp16"].model_copy(update={"pictures": "16 pictures of enough"})
    change_manifest(bundle_copy, lambda bundle: {"parity": {**parity, "int8": calibrated}})
    assert _verify(bundle_copy, enough) == 0
    everybody, others = crops
    assert len(everybody) == 16
    assert np.array_equal(others, everybody[::2])


@pytest.mark.usefixtures("on_cpu_alone")
def test_the_results_are_stored_in_the_bundle(
    bundle_copy: Path, enough: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = open_bundle(bundle_copy).manifest
    assert _verify(bundle_copy, enough) == 0
    printed = capsys.readouterr().out
    assert f"stored in {bundle_copy}/bundle.json: --precision auto takes fp32 on cpu" in printed
    bundle = open_bundle(bundle_copy)
    assert bundle.manifest.model_copy(update={"verified": ()}) == before
    fp32, fp16 = bundle.manifest.verified
    for entry, precision in ((fp32, "fp32"), (fp16, "fp16")):
        assert (entry.device, entry.engine, entry.precision) == ("cpu", "onnxruntime", precision)
        assert (entry.hardware, entry.engine_version) == (cpu_text(), onnxruntime.__version__)
        assert (entry.parity.crops, entry.parity.pictures) == (16, "16 pictures of enough")
        assert entry.average_precision_change is None
        assert [time.people for time in entry.times] == [1, bundle.manifest.max_batch] == [1, 6]
        assert entry.parity.failures == ()
        alone, batch = (f"{time.coarse:.1f} + {time.fine:.1f}" for time in entry.times)
        assert alone in printed
        assert batch in printed
    assert fp32.graphs_sha256 != fp16.graphs_sha256
    assert fp16.parity.keypoint_pixels_median > fp32.parity.keypoint_pixels_median


def test_openvino_is_verified_where_it_is_there(
    bundle_copy: Path, enough: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if find_spec("openvino") is None:
        pytest.skip("OpenVINO is not installed")
    there = [name for name in find_device(parse_device("openvino")).precisions if name != "int8"]
    assert _verify(bundle_copy, enough) == 0
    assert re.search(
        rf"auto takes fp32 on cpu, ({'|'.join(there)}) on openvino:CPU(;|$)", capsys.readouterr().out, re.M
    )
    entries = {item.precision: item for item in open_bundle(bundle_copy).manifest.verified if item.engine == "openvino"}
    assert list(entries) == there
    for precision, entry in entries.items():
        assert (entry.device, entry.hardware) == ("openvino:CPU", cpu_text())
        assert entry.engine_version == import_openvino().__version__
        assert entry.graphs_sha256 == open_bundle(bundle_copy).graphs_sha256(graphs_of(precision))
        assert entry.parity.failures == ()
    moved = [entry.parity.keypoint_pixels_median for entry in entries.values()]
    assert moved == sorted(moved)  # the fewer bits, the further


def test_a_later_result_takes_the_place_of_an_earlier_one(two_precisions: Bundle, bundle_copy: Path) -> None:
    bundle, report = open_bundle(bundle_copy), two_precisions.manifest.parity["fp32"]

    def result(precision: Precision, milliseconds: float, change: float | None = None) -> Verification:
        times = (BatchTime(people=1, coarse=milliseconds, fine=milliseconds),)
        report_of_16 = report.model_copy(update={"crops": 16})
        ap = None if change is None else 0.5 + change
        engine = VerifiedEngine("cpu", precision, report_of_16, ap, None, times)
        return Verification("pictures", 16, (engine,), (), None if change is None else 0.5)

    assert keep_verification(bundle, result("fp32", 2.0)).endswith(": --precision auto takes fp32 on cpu")
    assert keep_verification(bundle, result("fp16", 1.0, -0.25)).endswith(": --precision auto takes fp32 on cpu")
    foreign = open_bundle(bundle_copy).manifest.verified[1].model_copy(update={"hardware": "riscv64"})
    change_manifest(bundle_copy, lambda now: {"verified": (foreign, *now.manifest.verified)})
    assert keep_verification(bundle, result("fp16", 3.0)).endswith(": --precision auto takes fp32 on cpu")
    kept = open_bundle(bundle_copy).manifest.verified
    assert [(item.hardware, item.precision, item.times[0].coarse) for item in kept] == [
        ("riscv64", "fp16", 1.0),
        (cpu_text(), "fp32", 2.0),
        (cpu_text(), "fp16", 3.0),
    ]
    assert [item.average_precision_change for item in kept] == [-0.25, None, None]
    many = tuple(foreign.model_copy(update={"hardware": f"number {number}"}) for number in range(MOST_VERIFIED))
    change_manifest(bundle_copy, lambda now: {"verified": many})
    keep_verification(bundle, result("fp32", 2.0))
    kept = open_bundle(bundle_copy).manifest.verified
    assert (len(kept), kept[0].hardware, kept[-1].hardware) == (MOST_VERIFIED, "number 1", cpu_text())
    changed = bundle.manifest.files | {"weights.bin": "0" * 64}
    other = Bundle(bundle.path, bundle.manifest.model_copy(update={"files": changed}))
    with pytest.raises(SinkError, match="was exported again meanwhile; verify it again"):
        keep_verification(other, result("fp32", 2.0))


def _said(bundle: Path, *engines: VerifiedEngine) -> tuple[str, str]:
    """The last line, and the table."""
    verification = Verification("pictures", 16, engines, (), None)
    out = io.StringIO()
    print_verification(verification, Console(file=out, width=200))
    return keep_verification(open_bundle(bundle), verification), out.getvalue()


def test_a_precision_whose_keypoints_jump_is_not_endorsed(two_precisions: Bundle, bundle_copy: Path) -> None:
    report = two_precisions.manifest.parity["fp32"].model_copy(update={"crops": 16})

    def engine(
        precision: RunPrecision, milliseconds: float, pixels: float = 0.1, ap: float | None = None
    ) -> VerifiedEngine:
        moved = report.model_copy(update={"keypoint_pixels_p99": pixels})
        times = (BatchTime(people=1, coarse=milliseconds, fine=milliseconds),)
        return VerifiedEngine("cpu", precision, moved, ap, None, times)

    line, table = _said(bundle_copy, engine("bf16", 1.0))
    assert line.endswith(": --precision auto takes fp32 on cpu; not bf16 on cpu: verify fp32 as well, to compare with")
    assert "within tolerance" in table
    assert _said(bundle_copy, engine("fp32", 2.0))[0].endswith(": --precision auto takes bf16 on cpu")
    line, table = _said(bundle_copy, engine("bf16", 1.0, 310.2))
    jump = "keypoints moved 310 px at the 99th percentile (limit 8)"
    assert line.endswith(f": --precision auto takes fp32 on cpu; not bf16 on cpu: {jump}")
    assert "keypoints jump" in table
    assert "within tolerance" not in table
    assert "keypoints jump" not in _said(bundle_copy, engine("bf16", 1.0, 310.2, ap=0.3))[1]  # AP says what that costs
    change_manifest(bundle_copy, lambda now: {"source": "random weights, seed 0"})
    random = "weights are random, so nothing is right or wrong"
    for pixels in (0.1, 310.2):
        line, _ = _said(bundle_copy, engine("fp32", 2.0), engine("bf16", 1.0, pixels))
        assert line.endswith(f": --precision auto takes fp32 on cpu; not bf16 on cpu: {random}")


@pytest.mark.usefixtures("on_cpu_alone")
def test_a_bundle_that_cannot_be_written_is_verified_all_the_same(
    bundle_copy: Path, images: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    before = (bundle_copy / "bundle.json").read_bytes()
    monkeypatch.setattr(bundle_folder, "replacing", refuse)
    assert _verify(bundle_copy, images, "--precision", "fp16") == 3
    captured = capsys.readouterr()
    line = (
        f"results not stored, so --precision auto goes on as before: bundle {bundle_copy}: bundle.json can't be "
        "written (Read-only file system)"
    )
    assert captured.err == f"error: {line}\n"
    assert "within tolerance" in captured.out
    assert (bundle_copy / "bundle.json").read_bytes() == before
    _scale_heatmaps(bundle_copy)
    assert _verify(bundle_copy, images, "--precision", "fp16") == 1  # what is wrong comes first
    assert re.search(f"cpu fp16: fine heatmaps off by .*; {re.escape(line)}", capsys.readouterr().err)


@pytest.mark.usefixtures("on_cpu_alone")
def test_one_precision_alone_is_verified(bundle_copy: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _verify(bundle_copy, images, "--precision", "fp16") == 0
    assert [item.precision for item in open_bundle(bundle_copy).manifest.verified] == ["fp16"]
    capsys.readouterr()
    assert _verify(bundle_copy, images, "--precision", "int8") == 2
    captured = capsys.readouterr()
    words = "holds fp32, fp16 graphs, not int8; export it with --precision fp32,fp16,int8"
    assert captured.err == f"error: bundle {bundle_copy}: {words}\n"
    assert "reference" not in captured.out  # nothing was run
    assert _verify(bundle_copy, images, "--precision", "bf16") == 2
    assert capsys.readouterr().err == f"error: nothing on this machine runs {bundle_copy} in bf16\n"


def test_a_bundle_without_fp32_has_no_reference(bundle_copy: Path, pictures: ParityPictures) -> None:
    manifest = json.loads((bundle_copy / "bundle.json").read_text("utf-8"))
    del manifest["graphs"]["fp32"], manifest["parity"]["fp32"]
    for name in ("coarse.onnx", "fine.onnx"):
        del manifest["files"][name]
    (bundle_copy / "bundle.json").write_text(json.dumps(manifest), "utf-8")
    with pytest.raises(BundleError, match="holds fp16 graphs, but verifying needs fp32"):
        verify_bundle(open_bundle(bundle_copy), pictures)


@pytest.mark.usefixtures("on_cpu_alone")
def test_average_precision_is_that_of_the_whole_pipeline(two_precisions: Bundle, images: Path, tmp_path: Path) -> None:
    labels = load_labels(_labels(tmp_path, two_precisions, images), images, two_precisions.model.skeleton)
    crops = labels.crops(two_precisions.model.crop_size)
    assert crops.crops.shape == (2, *two_precisions.model.crop_size, 3)
    result = verify_bundle(two_precisions, crops, labels)
    assert crops.usage == ["labels.json: 2 people used"]
    assert result.average_precision == pytest.approx(1.0)
    fp32, fp16 = result.engines
    assert fp32.average_precision == pytest.approx(1.0)
    assert fp16.average_precision is not None
    assert fp32.change_interval == (0.0, 0.0)
    assert fp16.change_interval is not None
    low, high = fp16.change_interval
    assert low <= fp16.average_precision - 1.0 <= high
    assert result.failures == [f"cpu fp16: {line}" for line in ap_lost(fp16.average_precision - 1.0, (low, high))]
    out = io.StringIO()
    print_verification(result, Console(file=out, width=200))
    assert re.search(r"change in AP, 95 % interval .* \+0\.000 to \+0\.000 ", out.getvalue())


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
    damaged = (images / "1.png").read_bytes()[:16]  # its kind can still be told
    (images / "absent.png").write_bytes(damaged)
    labels = load_labels(good, images, skeleton)
    assert labels.crops(two_precisions.model.crop_size).usage == [usage]
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


def test_a_bundle_is_verified_without_torch_and_onnx(bundle_copy: Path, images: Path, tmp_path: Path) -> None:
    arguments = ["--bundle", str(bundle_copy), "--verify", "--images", str(images), "--precision", "fp16"]
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
