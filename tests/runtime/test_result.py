import numpy as np
import pytest

from sharpose.errors import InputError
from sharpose.runtime.result import Boxes, PoseResult, StageTimings
from sharpose.skeleton import COCO17


def result(people=2, joints=17, **changes):
    values = {
        "boxes": Boxes.from_xyxy(np.tile([1, 2, 3, 4], (people, 1))),
        "keypoints": np.zeros((people, joints, 3), np.float32),
        "quality": np.zeros(people, np.float32),
        "refined": np.zeros(people, bool),
    }
    return PoseResult(**(values | changes))


def test_boxes_from_either_form():
    boxes = Boxes.from_xywh([[10, 20, 30, 40]], [0.5])
    assert boxes.xyxy.tolist() == [[10, 20, 40, 60]]
    assert boxes.xywh.tolist() == [[10, 20, 30, 40]]
    assert boxes.scores.tolist() == [0.5]
    assert boxes.xyxy.dtype == boxes.scores.dtype == np.float32
    assert Boxes.from_xyxy([[10, 20, 40, 60], [0, 0, 1, 1]]).scores.tolist() == [1, 1]


def test_giving_boxes_does_not_change_the_callers_array():
    given = np.float32([[10, 20, 30, 40]])
    boxes = Boxes.from_xywh(given)
    assert boxes.xywh.tolist() == [[10, 20, 30, 40]]
    assert given.tolist() == [[10, 20, 30, 40]]


def test_nobody():
    for boxes in (Boxes.empty(), Boxes.from_xyxy([]), Boxes.from_xywh([])):
        assert len(boxes) == 0
        assert boxes.xyxy.shape == (0, 4)
        assert boxes.scores.shape == (0,)
    assert result(people=0).scores.shape == (0,)


@pytest.mark.parametrize("box", [[5, 5, 5, 5], [5, 5, 6, 5], [-1e6, -5, -3, 1e6]])
def test_boxes_without_area_and_outside_are_boxes(box):
    assert Boxes.from_xyxy([box]).xyxy.tolist() == [box]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Boxes.from_xyxy([[1, 2, 0, 4]]), r"\[1.0, 2.0, 0.0, 4.0\] at index 0 \(is this xywh\?\)"),
        (lambda: Boxes.from_xyxy([[0, 0, 1, 1], [1, 5, 2, 4]]), "at index 1"),
        (lambda: Boxes.from_xywh([[1, 2, -3, 4]]), "x1 <= x2"),
        (lambda: Boxes.from_xyxy([[1, 2, float("nan"), 4]]), "finite"),
        (lambda: Boxes.from_xyxy([[1, 2, float("inf"), 4]]), "finite"),
        (lambda: Boxes.from_xyxy([[1, 2, 3, 4]], [float("nan")]), "finite"),
        (lambda: Boxes.from_xyxy([1, 2, 3, 4]), r"expected shape \[n, 4\], got \[4\]"),
        (lambda: Boxes.from_xyxy([[1, 2, 3]]), r"expected shape \[n, 4\], got \[1, 3\]"),
        (lambda: Boxes.from_xyxy([[1, 2, 3, 4]], [0.5, 0.5]), r"scores: expected shape \[1\], got \[2\]"),
    ],
)
def test_boxes_that_are_none(make, words):
    with pytest.raises(InputError, match=words):
        make()


def test_the_best_keep_their_order():
    boxes = Boxes.from_xyxy([[i, 0, i + 1, 1] for i in range(5)], [0.3, 0.9, 0.1, 0.9, 0.5])
    assert boxes.best(3).xyxy[:, 0].tolist() == [1, 3, 4]
    assert boxes.best(1).xyxy[:, 0].tolist() == [1]
    assert boxes.best(0).xyxy.shape == (0, 4)
    assert boxes.best(5) is boxes
    assert boxes.best(9) is boxes


def test_a_score_is_the_boxs_times_the_mean_of_keypoints_above_the_floor_or_the_confidence():
    keypoints = np.zeros((3, 4, 3), np.float32)
    keypoints[0, :, 2] = [0.9, 0.5, 0.2, -1]  # 0.2 itself does not count
    keypoints[1, :, 2] = 0.1
    keypoints[2, :, 2] = [0.3, 0.3, 0.3, 0.3]
    boxes = Boxes.from_xyxy(np.tile([1, 2, 3, 4], (3, 1)), [0.5, 1.0, 1.0])
    scores = PoseResult(boxes, keypoints, np.zeros(3, np.float32), np.zeros(3, bool)).scores
    assert scores.tolist() == pytest.approx([0.35, 0.0, 0.3])
    assert scores.dtype == np.float32
    confidence = np.array([0.2, 0.4, 0.6], np.float32)
    sure = PoseResult(boxes, keypoints, np.zeros(3, np.float32), np.zeros(3, bool), confidence=confidence)
    assert sure.scores.tolist() == pytest.approx([0.1, 0.4, 0.6])
    assert sure.scores.dtype == np.float32


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"keypoints": np.zeros((3, 17, 3), np.float32)}, r"keypoints: expected shape \[2, J, 3\], got \[3, 17, 3\]"),
        ({"keypoints": np.zeros((2, 17, 2), np.float32)}, "keypoints"),
        ({"keypoints": np.zeros((2, 51), np.float32)}, "keypoints"),
        ({"quality": np.zeros((2, 1), np.float32)}, r"quality: expected shape \[2\], got \[2, 1\]"),
        ({"refined": np.zeros(1, bool)}, r"refined: expected shape \[2\], got \[1\]"),
        ({"confidence": np.zeros(3, np.float32)}, r"confidence: expected shape \[2\], got \[3\]"),
    ],
)
def test_results_whose_parts_disagree(changes, words):
    with pytest.raises(InputError, match=words):
        result(**changes)


def test_a_result_has_the_length_and_boxes_of_its_people():
    found = result(people=3, joints=16)
    assert len(found) == 3
    assert found.boxes_xyxy is found.boxes.xyxy


def test_timings_add_up():
    assert StageTimings(1, 2, 4, 8, 16, 32).total == 63
    assert StageTimings().total == 0


def test_boxes_are_a_copy_of_the_callers_array() -> None:
    mine = np.array([[1, 2, 3, 4]], np.float32)
    boxes = Boxes.from_xyxy(mine)
    mine[:] = 0
    assert boxes.xyxy.tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize("value", [1e38, 2e12, 1e300])
def test_boxes_beyond_any_picture_are_refused(value: float) -> None:
    with pytest.raises(InputError, match=r"boxes_xyxy"):
        Boxes.from_xyxy([[0, 0, value, 10]])


def test_a_result_is_shown_in_a_line():
    sure = np.ones(1, np.float32)
    assert repr(result(people=0)) == "PoseResult: 0 people, 0 refined, 0 ms"
    timings = StageTimings(coarse=0.0409)
    assert repr(result(people=1, timings=timings, confidence=sure)) == "PoseResult: 1 person, 0 refined, 41 ms"
    three = result(people=3, refined=np.array([True, False, True]), timings=StageTimings(crop=1, fine=0.2))
    assert f"{three}" == "PoseResult: 3 people, 2 refined, raw scores, 1200 ms"


def test_people_as_a_dict():
    scores = np.float32([0.25])
    one = result(
        people=1,
        joints=1,
        boxes=Boxes.from_xyxy([[1, 2, 4, 8.0004]], [0.5]),
        keypoints=np.float32([[[1.23456, 2, 0.9]]]),
        quality=scores,
        track_ids=np.array([0]),
        wanted=np.array([True]),
    )
    assert one.to_dict() == {
        "people": [
            {
                "id": None,
                "bbox": [1, 2, 3, 6],
                "score": 0.45,
                "keypoints": [[1.235, 2, 0.9]],
                "quality": 0.25,
                "refined": False,
                "wanted": True,
            }
        ]
    }
    assert result(people=0).to_dict() == {"people": []}


def test_joint_angles_of_a_result():
    keypoints = np.zeros((2, 17, 3), np.float32)
    keypoints[1, [12, 14, 16]] = [[10, 10, 0.5], [10, 20, 0.5], [20, 20, 0.4]]
    found = result(keypoints=keypoints, skeleton=COCO17)
    np.testing.assert_allclose(found.angles()["right_knee"], [np.nan, 90])
    assert np.isnan(found.angles(keypoint_threshold=0.45)["right_knee"]).all()

    keypoints[1, 16, 0] = 10 + 10 / 3**0.5  # in square pixels: 10 to the right, 10 up
    keypoints[1, 16, 1] = 10
    found = result(keypoints=keypoints, skeleton=COCO17, sample_aspect_ratio=3**0.5)
    np.testing.assert_allclose(found.angles()["right_knee"], [np.nan, 45], atol=1e-4)


@pytest.mark.parametrize("threshold", [2, -1, float("nan"), "x", None])
@pytest.mark.parametrize("name", ["plot", "angles", "to_supervision"])
def test_thresholds_that_no_score_can_have(name, threshold):
    found = result(skeleton=COCO17)
    given = [np.zeros((9, 9, 3), np.uint8)] if name == "plot" else []
    with pytest.raises(InputError, match=f"keypoint_threshold: expected a score from 0 to 1, got {threshold!r}"):
        getattr(found, name)(*given, keypoint_threshold=threshold)


def test_a_plot_on_no_picture():
    with pytest.raises(InputError, match=r"image_bgr: expected a uint8 array \[H, W, 3\], got NoneType"):
        result(skeleton=COCO17).plot(None)


@pytest.mark.parametrize(
    ("name", "call"), [("plot", lambda found: found.plot(np.zeros((9, 9, 3), np.uint8))), ("angles", PoseResult.angles)]
)
def test_what_needs_a_skeleton(name, call):
    with pytest.raises(InputError, match=f"{name}: expected a result with a skeleton"):
        call(result())
