"""Poses, boxes, ids and regions on whole pictures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from sharpose.errors import InputError
from sharpose.runtime.drawing.draw import draw_poses, draw_regions
from sharpose.runtime.drawing.style import COLOURS, DEFERRED, REFINED, track_colour
from sharpose.runtime.result import Boxes, PoseResult
from sharpose.skeleton import COCO17, MPII16, Skeleton, get_skeleton

GREY = 110


def canvas(height: int = 240, width: int = 320) -> npt.NDArray[np.uint8]:
    return np.full((height, width, 3), GREY, np.uint8)


def people(
    keypoints: npt.ArrayLike,
    boxes: npt.ArrayLike | None = None,
    quality: float = 0.5,
    refined: bool = False,
) -> PoseResult:
    points = np.asarray(keypoints, np.float32)
    if boxes is None:
        boxes = np.tile(np.array([40, 30, 200, 220], np.float32), (len(points), 1))
    count = len(points)
    return PoseResult(
        Boxes.from_xyxy(boxes), points, np.full(count, quality, np.float32), np.full(count, refined, np.bool_)
    )


def one(skeleton: Skeleton = COCO17, **named: tuple[float, float, float]) -> npt.NDArray[np.float32]:
    """One person [1, J, 3] with these keypoints; the others have score 0."""
    points = np.zeros((1, skeleton.num_keypoints, 3), np.float32)
    for name, value in named.items():
        points[0, skeleton.keypoints.index(name)] = value
    return points


def changed(drawn: npt.NDArray[np.uint8], before: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    marks: npt.NDArray[np.bool_] = (drawn != before).any(axis=2)
    return marks


def like(pixel: npt.NDArray[np.uint8], side: str) -> bool:
    return bool(np.abs(pixel.astype(int) - COLOURS[side]).max() <= 40)


def test_a_skeleton_brings_its_colours() -> None:
    """Also where another skeleton with the same keypoints was drawn before, in other colours, or one without limbs."""
    points = one(left_hip=(60, 60, 1), left_knee=(60, 180, 1), right_hip=(200, 60, 1))
    before = draw_poses(canvas(), people(points), COCO17, show_boxes=False)
    assert like(before[120, 60], "left")
    limb_colours = ["#000000"] * len(COCO17.limbs)
    limb_colours[COCO17.limbs.index((11, 13))] = "#0a64ff"
    joints = ["#ffffff"] * 17
    joints[12] = "#14c832"
    own = replace(COCO17, keypoint_colours=tuple(joints), limb_colours=tuple(limb_colours))
    drawn = draw_poses(canvas(), people(points), own, show_boxes=False)
    assert np.abs(drawn[120, 60].astype(int) - [255, 100, 10]).max() <= 40  # BGR
    assert drawn[60, 200].tolist() == [50, 200, 20]
    points_only = draw_poses(canvas(), people(points), replace(own, limbs=(), limb_colours=()), show_boxes=False)
    assert points_only[60, 200].tolist() == [50, 200, 20]
    assert (points_only[120] == GREY).all()


def test_faces_and_hands_of_a_whole_body_are_thin() -> None:
    whole = get_skeleton("coco_wholebody133")

    def area(*names: str) -> int:
        points = np.zeros((1, 133, 3), np.float32)
        for x, name in zip((60, 200), names, strict=False):
            points[0, whole.keypoints.index(name)] = (x, 100, 1)
        large, box = canvas(960, 1280), np.array([[0, 0, 960, 960]])
        return int(changed(draw_poses(large, people(points, box), whole, show_boxes=False), large).sum())

    assert 0 < area("face_33") < 0.5 * area("left_elbow")
    assert 0 < area("left_hand_root", "left_thumb1") < 0.8 * area("left_elbow", "left_wrist")
    nose, knee = one(nose=(60, 100, 1)), one(left_knee=(60, 100, 1))  # labelled as exactly, but of few keypoints
    of_nose, of_knee = (draw_poses(canvas(), people(points), COCO17, show_boxes=False) for points in (nose, knee))
    np.testing.assert_array_equal(changed(of_nose, canvas()), changed(of_knee, canvas()))


def test_left_right_and_centre_have_their_colours() -> None:
    points = one(
        left_shoulder=(200, 60, 1),
        left_elbow=(200, 140, 1),
        right_shoulder=(100, 60, 1),
        right_elbow=(100, 140, 1),
        nose=(150, 30, 1),
    )
    drawn = draw_poses(canvas(), people(points), COCO17, show_boxes=False)
    assert like(drawn[100, 200], "left")  # half-way along the limb
    assert like(drawn[140, 200], "left")  # the joint
    assert like(drawn[100, 100], "right")
    assert like(drawn[140, 100], "right")
    assert like(drawn[60, 150], "centre")  # from shoulder to shoulder
    assert like(drawn[30, 150], "centre")
    assert np.abs(np.subtract(COLOURS["left"], COLOURS["right"])).max() > 150


def test_limb_from_the_centre_has_its_sides_colour() -> None:
    points = one(MPII16, upper_neck=(150, 60, 1), left_shoulder=(230, 60, 1), right_shoulder=(70, 60, 1))
    drawn = draw_poses(canvas(), people(points), MPII16, show_boxes=False)
    assert like(drawn[60, 190], "left")
    assert like(drawn[60, 110], "right")


def test_the_picture_given_is_not_changed() -> None:
    image = canvas()
    image.flags.writeable = False
    drawn = draw_poses(image, people(one(nose=(100, 100, 1))), COCO17)
    assert (image == GREY).all()
    assert drawn.flags.writeable
    assert changed(drawn, image).any()


def test_drawing_without_a_copy_draws_the_same_on_the_picture_itself() -> None:
    poses, image = people(one(nose=(100, 100, 1), left_eye=(120, 90, 1))), canvas()
    expected = draw_poses(canvas(), poses, COCO17)
    assert draw_poses(image, poses, COCO17, copy=False) is image
    np.testing.assert_array_equal(image, expected)
    assert changed(image, canvas()).any()


def test_nobody_is_an_equal_copy() -> None:
    image = canvas()
    drawn = draw_poses(image, people(np.zeros((0, 17, 3))), COCO17)
    np.testing.assert_array_equal(drawn, image)
    assert not np.shares_memory(drawn, image)


def test_view_with_odd_strides() -> None:
    image = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
    poses = people(one(nose=(100, 100, 1), left_eye=(120, 90, 1)))
    view = image[::-1, ::-1, ::-1]
    np.testing.assert_array_equal(draw_poses(view, poses, COCO17), draw_poses(view.copy(), poses, COCO17))


def test_keypoints_below_the_threshold_are_not_drawn() -> None:
    points = one(left_shoulder=(200, 60, 0.9), left_elbow=(200, 140, 0.29), left_wrist=(200, 220, 0.9))
    drawn = draw_poses(canvas(), people(points), COCO17, show_boxes=False)
    marks = changed(drawn, canvas())
    assert marks[60, 200]
    assert marks[220, 200]
    assert not marks[80:200].any()  # neither the joint nor a limb that ends in it
    lower = draw_poses(canvas(), people(points), COCO17, show_boxes=False, keypoint_threshold=0.2)
    assert changed(lower, canvas())[80:200, 200].all()
    at = draw_poses(canvas(), people(one(nose=(50, 50, 0.5))), COCO17, show_boxes=False, keypoint_threshold=0.5)
    assert changed(at, canvas())[50, 50]


def test_a_surer_joint_is_larger() -> None:
    areas = [
        changed(
            draw_poses(canvas(960, 1280), people(one(nose=(600, 500, score))), COCO17, show_boxes=False),
            canvas(960, 1280),
        ).sum()
        for score in (0.3, 0.6, 1.0, 7.5)
    ]
    assert areas[0] < areas[1] < areas[2] == areas[3]  # heatmaps may peak above 1


def test_lines_grow_with_the_picture_and_shrink_with_the_person() -> None:
    def width_of_limb(height: int, person: float) -> int:
        width = height * 4 // 3
        middle = width / 2
        points = one(left_hip=(middle, height * 0.4, 1), left_knee=(middle, height * 0.6, 1))
        box = [[middle - person * height / 2, 0, middle + person * height / 2, person * height]]
        before = canvas(height, width)
        drawn = draw_poses(before, people(points, box), COCO17, show_boxes=False)
        return int(changed(drawn, before)[height // 2].sum())

    small, large = width_of_limb(240, 0.9), width_of_limb(2160, 0.9)
    assert 2 <= small <= 7
    assert 20 <= large <= 50
    assert width_of_limb(2160, 0.02) < large


def test_lines_are_antialiased_and_placed_within_the_pixel() -> None:
    points = one(left_hip=(100, 50, 1), left_knee=(120, 200, 1))
    drawn = draw_poses(canvas(), people(points), COCO17, show_boxes=False)
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 10
    moved = draw_poses(canvas(), people(points + np.array([0.5, 0, 0], np.float32)), COCO17, show_boxes=False)
    assert changed(moved, drawn).any()


def test_boxes_are_drawn_unless_not_wanted() -> None:
    poses = people(np.zeros((1, 17, 3)), [[40, 60, 200, 220]])
    marks = changed(draw_poses(canvas(), poses, COCO17), canvas())
    for x, y in ((40, 140), (200, 140), (120, 60), (120, 220)):
        assert marks[y, x]
    assert not marks[100:200, 60:180].any()
    assert not changed(draw_poses(canvas(), poses, COCO17, show_boxes=False), canvas()).any()


def test_label_says_quality_and_whether_refined() -> None:
    points, box = np.zeros((1, 17, 3)), [[40, 60, 200, 220]]
    plain = draw_poses(canvas(), people(points, box, 0.5), COCO17)
    better = draw_poses(canvas(), people(points, box, 0.87), COCO17)
    refined = draw_poses(canvas(), people(points, box, 0.5, refined=True), COCO17)
    assert changed(plain, better)[:60].any()
    assert not changed(plain, better)[60:].any()  # only the number in the label differs
    assert (plain[140, 40] != refined[140, 40]).any()  # the box's colour
    wide = [np.flatnonzero(changed(drawn, canvas())[50]).max() for drawn in (plain, refined)]
    assert wide[1] > wide[0] + 20  # it says more


@pytest.mark.parametrize("box", [[0, 0, 50, 100], [290, 0, 319, 239], [300, 200, 600, 400], [-500, -500, 900, 900]])
def test_labels_stay_inside_the_picture(box: list[float]) -> None:
    """The label's background is whole: as many pixels as where there is room."""

    def filled(at: list[float]) -> int:
        drawn = draw_poses(canvas(), people(np.zeros((1, 17, 3)), [at]), COCO17)
        row = changed(drawn, canvas()).sum(axis=1)
        return int((row >= 25).sum())

    assert filled(box) >= filled([100, 100, 101, 101]) > 5


def test_labels_of_one_place_do_not_cover_each_other() -> None:
    before = canvas()
    single = changed(draw_poses(before, people(np.zeros((1, 17, 3)), [[100, 100, 140, 180]]), COCO17), before).sum()
    double = changed(draw_poses(before, people(np.zeros((2, 17, 3)), [[100, 100, 140, 180]] * 2), COCO17), before).sum()
    assert double > single + 150


HUGE = [1e5, 3e7, 2.0**31, 1e12, 1e30, 3e38]


@pytest.mark.parametrize("far", HUGE + [-value for value in HUGE])
def test_limb_that_leaves_the_picture_keeps_its_direction(far: float) -> None:
    points = one(left_hip=(160, 120, 1), left_knee=(160 + far, 120 + far, 1))
    with np.errstate(all="raise"):
        marks = changed(draw_poses(canvas(), people(points), COCO17, show_boxes=False), canvas())
    step = 1 if far > 0 else -1
    for distance in (10, 60, 100):
        assert marks[120 + step * distance, 160 + step * distance]
    assert not marks[120 + step * 100, 160]
    assert not marks[120 - step * 60, 160 - step * 60]


def test_limb_across_the_picture_with_both_ends_far_away() -> None:
    points = one(left_hip=(-1e6, 120, 1), left_knee=(1e6, 120, 1))
    marks = changed(draw_poses(canvas(), people(points), COCO17, show_boxes=False), canvas())
    assert marks[120].all()
    assert not marks[:110].any()


@pytest.mark.parametrize("end", [(-1e6, 1e9), (500, 1e9), (1e9, -1e9), (400.0, 400.0)])
def test_limb_beside_the_picture_is_not_drawn(end: tuple[float, float]) -> None:
    points = one(left_hip=(500, 500, 1), left_knee=(*end, 1))
    np.testing.assert_array_equal(draw_poses(canvas(), people(points), COCO17, show_boxes=False), canvas())


def test_keypoints_that_are_not_finite_are_not_drawn() -> None:
    points = one(left_hip=(np.nan, 120, 1), left_knee=(100, np.inf, 1), left_ankle=(100, 100, np.nan))
    np.testing.assert_array_equal(draw_poses(canvas(), people(points), COCO17, show_boxes=False), canvas())
    draw_poses(canvas(), people(points, quality=np.nan), COCO17)


def test_person_beside_the_picture_is_not_drawn() -> None:
    points = np.tile(np.array([1000, 1000, 1], np.float32), (1, 17, 1))
    poses = people(points, [[900, 900, 1100, 1100]])
    np.testing.assert_array_equal(draw_poses(canvas(), poses, COCO17), canvas())


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (5, 5), (0, 10)])
def test_tiny_pictures(size: tuple[int, int]) -> None:
    points = np.random.default_rng(0).uniform(0, 5, (3, 17, 3))
    boxes = np.array([[0, 0, 1, 1], [0, 0, 0, 0], [-1e12, -1e12, 1e12, 1e12]])
    assert draw_poses(canvas(*size), people(points, boxes), COCO17).shape == (*size, 3)


def test_wrong_arguments() -> None:
    poses = people(np.zeros((1, 17, 3)))
    for image in (np.zeros((5, 5), np.uint8), np.zeros((5, 5, 4), np.uint8), np.zeros((5, 5, 3), np.float32)):
        with pytest.raises(InputError, match=r"uint8 \[H, W, 3\]"):
            draw_poses(image, poses, COCO17)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="expected 16 keypoints a person as skeleton 'mpii16' has, got 17"):
        draw_poses(canvas(), poses, MPII16)


@pytest.mark.shared
@pytest.mark.parametrize("width", [320, 3840])
def test_ground_truth_is_drawn_on_its_joints(shared_dir: Path, width: int) -> None:
    folder = shared_dir / "data/coco_tiny"
    document = json.loads((folder / "annotations/person_keypoints_val2017.json").read_text())
    person = max(document["annotations"], key=lambda a: a["num_keypoints"])
    name = next(image["file_name"] for image in document["images"] if image["id"] == person["image_id"])
    original = cv2.imread(str(folder / "val2017" / name))
    assert original is not None
    scale = width / original.shape[1]
    image = cv2.resize(original, None, fx=scale, fy=scale).astype(np.uint8)
    points = np.array(person["keypoints"], np.float32).reshape(1, 17, 3)
    points[:, :, :2] *= scale
    points[:, :, 2] = points[:, :, 2] > 0
    xywh = np.array([person["bbox"]]) * scale
    poses = people(points, np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1))
    drawn = draw_poses(image, poses, COCO17, show_boxes=False)
    joints = [i for i in range(5, 17) if points[0, i, 2]]  # joints of the face may cover each other
    right = [like(drawn[int(points[0, i, 1]), int(points[0, i, 0])], COCO17.side(i)) for i in joints]
    assert len(right) >= 10
    assert sum(right) >= len(right) - 2  # a limb or joint of the other side may lie on top


def in_boxes(
    boxes: npt.ArrayLike,
    track_ids: list[int] | None,
    *,
    refined: bool = False,
    wanted: bool = False,
    keypoints: npt.NDArray[np.float32] | None = None,
) -> PoseResult:
    count = len(np.asarray(boxes))
    poses = people(np.zeros((count, 17, 3)) if keypoints is None else keypoints, boxes, refined=refined)
    ids = None if track_ids is None else np.array(track_ids, np.int64)
    return replace(poses, wanted=np.full(count, wanted), track_ids=ids)


def has(picture: npt.NDArray[np.uint8], colour: tuple[int, int, int]) -> int:
    return int((picture == colour).all(axis=2).sum())


@pytest.mark.parametrize(("height", "width"), [(240, 320), (720, 1280), (2160, 3840)])
def test_boxes_and_labels_have_their_tracks_colour(height: int, width: int) -> None:
    boxes = np.array([[0.1, 0.2, 0.3, 0.9], [0.5, 0.2, 0.7, 0.9]]) * [width, height, width, height]
    drawn = draw_poses(canvas(height, width), in_boxes(boxes, [3, 8]), COCO17)
    edge = round(0.5 * height)
    assert (drawn[edge, round(0.1 * width)] == track_colour(3)).all()
    assert (drawn[edge, round(0.5 * width)] == track_colour(8)).all()
    swapped = draw_poses(canvas(height, width), in_boxes(boxes[::-1], [8, 3]), COCO17)
    assert (swapped[edge, round(0.1 * width)] == track_colour(3)).all()  # by id, not by order


def test_refined_and_deferred_people_are_marked_with_and_without_ids() -> None:
    box = [[40, 60, 200, 220]]
    for ids in (None, [1]):
        plain = draw_poses(canvas(240, 320), in_boxes(box, ids), COCO17)
        refined = draw_poses(canvas(240, 320), in_boxes(box, ids, refined=True, wanted=True), COCO17)
        deferred = draw_poses(canvas(240, 320), in_boxes(box, ids, wanted=True), COCO17)
        assert has(plain, REFINED) == has(plain, DEFERRED) == 0
        assert has(refined, REFINED) >= 9
        assert has(refined, DEFERRED) == 0
        assert has(deferred, DEFERRED) >= 9
        assert has(deferred, REFINED) == 0


def test_a_person_is_drawn_alike_alone_and_in_a_crowd() -> None:
    rng = np.random.default_rng(0)
    boxes = np.array([[x, y, x + 60, y + 120] for y in (30, 200, 400) for x in range(20, 1200, 200)], np.float32)
    keypoints = rng.uniform(0, 1, (len(boxes), 17, 3)).astype(np.float32)
    keypoints[:, :, :2] = boxes[:, None, :2] + keypoints[:, :, :2] * [60, 120]
    together = draw_poses(canvas(720, 1280), in_boxes(boxes, None, keypoints=keypoints), COCO17, show_boxes=False)
    apart = canvas(720, 1280)
    for index in range(len(boxes)):
        one = in_boxes(boxes[index : index + 1], None, keypoints=keypoints[index : index + 1])
        drawn = draw_poses(canvas(720, 1280), one, COCO17, show_boxes=False)
        marks = (drawn != GREY).any(axis=2)
        apart[marks] = drawn[marks]
    np.testing.assert_array_equal(together, apart)


def test_odd_people() -> None:
    """All at once: nowhere, everywhere, a pixel, upside down in number, not a number."""
    boxes = np.array(
        [[5, 5, 5, 5], [6, 6, 7, 7], [-1e12, -1e12, 1e12, 1e12], [-300, -300, -200, -200], [310, 230, 400, 300]]
    )
    keypoints = np.full((5, 17, 3), 0.9, np.float32)
    keypoints[0, ::2] = np.nan
    keypoints[1, :, :2] = 3e38
    keypoints[2, :, 0] = np.inf
    keypoints[3, :, 2] = -np.inf
    keypoints[4, :, :2] = [-3e38, 3e38]
    poses = in_boxes(boxes, [0, -5, 2**62, 1, 2], refined=True, wanted=True, keypoints=keypoints)
    with np.errstate(all="raise", under="ignore"):
        for size in ((240, 320), (1, 1), (2, 500), (0, 0)):
            assert draw_poses(canvas(*size), poses, COCO17, status=lambda _: "status").shape == (*size, 3)


def noise(height: int = 240, width: int = 320) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(60, 190, (height, width, 3), np.uint8)


def regions(*boxes: tuple[float, ...]) -> npt.NDArray[np.float32]:
    return np.array(boxes, np.float32).reshape(-1, 4)


def test_tiles_are_tinted_and_nothing_else() -> None:
    picture, before = noise(), noise()
    draw_regions(picture, regions((10, 20, 42, 52), (42, 20, 74, 52), (200, 100, 232, 132)), (0, 255, 0))
    marks = (picture != before).any(axis=2)
    assert marks[21:50, 11:40].all()
    assert not marks[20:52, 41].any()  # a line between neighbours
    assert marks[30, 43]
    assert marks[110, 210]
    outside = marks.copy()
    outside[20:52, 10:74] = outside[100:132, 200:232] = False
    assert not outside.any()
    expected = 0.65 * before[30, 20] + 0.35 * np.array([0, 255, 0])
    assert np.abs(picture[30, 20] - expected).max() <= 1  # the picture shows through


@pytest.mark.parametrize(
    "box",
    [
        (np.nan,) * 4,
        (np.nan, 0, 10, 10),
        (-50, -50, -10, -10),
        (400, 300, 500, 400),
        (10, 10, 10, 10),
        (20, 20, 10, 10),
        (3e38, 3e38, 3.1e38, 3.1e38),
    ],
)
def test_regions_that_are_not_there(box: tuple[float, ...]) -> None:
    picture = noise()
    draw_regions(picture, regions(box), (0, 255, 0))
    np.testing.assert_array_equal(picture, noise())
    draw_regions(picture, regions(), (0, 255, 0))


def test_regions_that_reach_outside_are_cut() -> None:
    picture = noise()
    draw_regions(picture, regions((-1e30, -5, 10, 1e30)), (0, 255, 0))
    marks = (picture != noise()).any(axis=2)
    assert marks[:238, :8].all()
    assert not marks[:, 10:].any()


def person(refined: bool, tile: npt.NDArray[np.float32] | None) -> PoseResult:
    poses = people(np.zeros((1, 17, 3)), [[10, 10, 90, 200]], refined=refined)
    return replace(poses, regions_xyxy=None if tile is None else tile[None])


def test_only_where_they_are_asked_for_and_only_of_the_refined() -> None:
    image, tile = noise(), regions((40, 60, 72, 92))
    with_tint = draw_poses(image, person(True, tile), COCO17, regions=True, show_boxes=False)
    assert (with_tint[70, 50] != image[70, 50]).any()
    for poses, asked in ((person(True, tile), False), (person(False, tile), True)):
        drawn = draw_poses(image, poses, COCO17, regions=asked, show_boxes=False)
        np.testing.assert_array_equal(drawn, image)


def test_asking_for_regions_that_nobody_kept() -> None:
    with pytest.raises(InputError, match="expected poses with regions_xyxy"):
        draw_poses(noise(), person(True, None), COCO17, regions=True)
    np.testing.assert_array_equal(draw_poses(noise(), people(np.zeros((0, 17, 3))), COCO17, regions=True), noise())
