"""Crop geometry, against known pixels and against what the released pipeline computed."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from sharpose.errors import InputError
from sharpose.geometry import PADDING, crop_frames, extract_crops, keypoints_to_image

CROP = (256, 192)
RECORDED = Path(__file__).parent.parent / "data" / "released_crops.npz"


def boxes(*rows):
    return np.array(rows, dtype=np.float32)


def crop(picture, *rows, crop_size=CROP):
    frames = crop_frames(boxes(*rows), crop_size)
    return extract_crops(picture, frames, np.full((len(rows), *crop_size, 3), 123, np.uint8))


def gradient(height=200, width=220):
    """BGR: blue is x, green is y, red is 7."""
    ys, xs = np.mgrid[:height, :width]
    return np.stack([xs, ys, np.full_like(xs, 7)], axis=-1).astype(np.uint8)


@pytest.fixture(scope="module")
def recorded():
    with np.load(RECORDED) as file:
        return dict(file)


@pytest.fixture(scope="module")
def recorded_frames(recorded):
    xyxy = recorded["boxes"].copy()
    xyxy[:, 2:] += xyxy[:, :2]
    return crop_frames(xyxy, CROP)


def test_frames_are_those_of_the_released_pipeline(recorded, recorded_frames):
    np.testing.assert_allclose(recorded_frames.center, recorded["center"], rtol=1e-6)
    np.testing.assert_allclose(recorded_frames.size, recorded["scale"] * 200, rtol=1e-6)


def test_matrices_are_those_of_the_released_pipeline(recorded, recorded_frames):
    for index, expected in enumerate(recorded["warp"]):
        np.testing.assert_allclose(recorded_frames.matrix(index), expected, rtol=1e-6, atol=1e-4)


def test_points_map_back_as_in_the_released_pipeline(recorded, recorded_frames):
    on_crop = recorded["points_heatmap"] * np.float32([191 / 47, 255 / 63])
    keypoints = np.concatenate([on_crop, np.full((6, 1), 0.5)], axis=1).astype(np.float32)
    mapped = keypoints_to_image(np.stack([keypoints] * 6), recorded_frames)
    np.testing.assert_allclose(mapped[..., :2], recorded["points_picture"], atol=1e-3)
    assert (mapped[..., 2] == 0.5).all()


def test_a_frame_has_the_crops_aspect_then_grows():
    frames = crop_frames(boxes([0, 0, 100, 100], [10, 20, 40, 220]), CROP)
    np.testing.assert_allclose(frames.center, [[50, 50], [25, 120]])
    np.testing.assert_allclose(frames.size, [[125, 125 / 0.75], [250 * 0.75, 250]], rtol=1e-6)
    assert PADDING == 1.25
    assert len(frames) == 2


def test_matrix_maps_corner_pixels_to_the_frames_corners():
    # a frame of 96 x 128 around (60, 80): (12, 16) to (108, 144)
    frames = crop_frames(boxes([60 - 38.4, 80 - 51.2, 60 + 38.4, 80 + 51.2]), CROP)
    matrix = frames.matrix(0).astype(np.float64)
    assert matrix.shape == (2, 3)
    np.testing.assert_allclose(matrix @ [12, 16, 1], [0, 0], atol=1e-3)
    np.testing.assert_allclose(matrix @ [108, 144, 1], [191, 255], atol=1e-3)


@pytest.mark.parametrize(
    "box", [[10, 20, 310, 520], [1900.5, 1000.25, 1930, 1070], [-50, -80, 20, 30], [5, 5, 6, 6], [7, 9, 7, 9]]
)
def test_keypoints_to_image_is_the_exact_inverse(box):
    frames = crop_frames(boxes(box), CROP)
    rng = np.random.default_rng(0)
    picture = frames.center[0] + (rng.random((50, 2)) - 0.5) * frames.size[0] * 1.5
    on_crop = np.concatenate([picture, np.ones((50, 1))], axis=1) @ frames.matrix(0).astype(np.float64).T
    keypoints = np.concatenate([on_crop, rng.random((50, 1))], axis=1)[None].astype(np.float32)
    back = keypoints_to_image(keypoints, frames)
    assert back.dtype == np.float32
    assert np.abs(back[0, :, :2] - picture).max() < 1e-3
    assert (back[..., 2] == keypoints[..., 2]).all()


def test_scores_are_clipped_and_those_within_stay_to_the_bit():
    scores = np.float32([-0.125, -0.0, 0.0, 1e-7, 0.2, 0.99999994, 1.0, 1.0000001, 1.24])
    keypoints = np.zeros((1, len(scores), 3), np.float32)
    keypoints[0, :, 2] = scores
    found = keypoints_to_image(keypoints, crop_frames(boxes([0, 0, 50, 50]), CROP))[0, :, 2]
    assert found.tolist() == [0, 0, 0, *scores[3:7].tolist(), 1, 1]


def test_keypoints_to_image_leaves_its_input_alone():
    keypoints = np.full((1, 3, 3), 1.5, np.float32)
    keypoints_to_image(keypoints, crop_frames(boxes([0, 0, 50, 50]), CROP))
    assert (keypoints == 1.5).all()


def test_known_pixels_of_a_gradient_in_rgb():
    found = crop(gradient(), [60 - 38.4, 80 - 51.2, 60 + 38.4, 80 + 51.2])[0].astype(int)
    assert found.shape == (256, 192, 3)
    assert (found[..., 0] == 7).all()  # red came first
    for row, column in [(0, 0), (255, 191), (0, 191), (100, 60), (17, 133)]:
        x, y = 12 + column * 96 / 191, 16 + row * 128 / 255
        assert abs(found[row, column, 2] - x) <= 0.6
        assert abs(found[row, column, 1] - y) <= 0.6


def test_outside_the_picture_is_black():
    white = np.full((100, 100, 3), 255, np.uint8)
    far, half = crop(white, [1000, 1000, 1100, 1100], [-30, 10, 30, 90])
    assert (far == 0).all()
    assert (half[:, :90] == 0).all()
    assert (half[128, 100:] == 255).all()


@pytest.mark.parametrize("box", [[50, 60, 51, 61], [50, 60, 50, 60], [50, 60, 50.4, 60], [50, 60, 50, 60.001]])
def test_boxes_of_a_pixel_or_none_give_finite_crops(box):
    frames = crop_frames(boxes(box), CROP)
    assert (frames.size >= 1).all()
    assert np.isfinite(frames.matrix(0)).all()
    found = crop(gradient(), box)[0].astype(int)
    assert abs(found[..., 2] - 50.5).max() <= 1.5  # all of it lies near x = 50, y = 60
    assert abs(found[..., 1] - 60.5).max() <= 1.5
    middle = keypoints_to_image(np.float32([[[95.5, 127.5, 1]]]), frames)
    np.testing.assert_allclose(middle[0, 0, :2], [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2], atol=1e-3)


def test_nobody():
    frames = crop_frames(np.zeros((0, 4), np.float32), CROP)
    assert len(frames) == 0
    assert extract_crops(gradient(), frames, np.empty((0, *CROP, 3), np.uint8)).shape == (0, 256, 192, 3)
    assert keypoints_to_image(np.zeros((0, 17, 3), np.float32), frames).shape == (0, 17, 3)


def test_only_the_first_n_of_the_buffer_are_written():
    frames = crop_frames(boxes([10, 10, 90, 90]), CROP)
    out = np.full((3, *CROP, 3), 99, np.uint8)
    found = extract_crops(gradient(), frames, out)
    assert np.shares_memory(found, out)
    assert len(found) == 1
    assert (out[1:] == 99).all()
    assert not (out[0] == 99).all()


@pytest.mark.parametrize(
    "out",
    [
        np.empty((2, 256, 192, 3), np.float32),
        np.empty((2, 192, 256, 3), np.uint8),
        np.empty((2, 256, 192), np.uint8),
        np.empty((1, 256, 192, 3), np.uint8),
        np.empty((2, 256, 192, 6), np.uint8)[..., ::2],
    ],
    ids=["dtype", "shape", "axes", "too short", "not contiguous"],
)
def test_a_buffer_that_does_not_fit_is_refused(out):
    frames = crop_frames(boxes([10, 10, 90, 90], [20, 20, 50, 60]), CROP)
    with pytest.raises(InputError, match=r"out: expected .*uint8 \[2 or more, 256, 192, 3\]"):
        extract_crops(gradient(), frames, out)


def test_crops_are_the_same_every_time():
    first, second = crop(gradient(), [3, 4, 80, 190]), crop(gradient(), [3, 4, 80, 190])
    assert (first == second).all()


def test_crops_of_oblong_pixels_show_people_as_a_player_does() -> None:
    rng = np.random.default_rng(0)
    image = np.asarray(cv2.GaussianBlur(rng.integers(0, 256, (200, 300, 3), dtype=np.uint8), (0, 0), 6), np.uint8)
    squeezed = np.asarray(cv2.resize(image, (200, 200), interpolation=cv2.INTER_AREA), np.uint8)  # pixels of 3:2
    box = np.array([[90, 40, 150, 180]], np.float32)
    narrow = box * np.array([2 / 3, 1, 2 / 3, 1], np.float32)
    frames, squeezed_frames = crop_frames(box, CROP), crop_frames(narrow, CROP, sample_aspect_ratio=1.5)
    np.testing.assert_allclose(squeezed_frames.size * [1.5, 1], frames.size, rtol=1e-6)
    crops = [np.zeros((1, *CROP, 3), np.uint8) for _ in range(2)]
    extract_crops(image, frames, crops[0])
    extract_crops(squeezed, squeezed_frames, crops[1])
    assert np.abs(crops[0].astype(int) - crops[1]).mean() < 3
    keypoints = np.array([[[10.0, 20.0, 1.0], [100.0, 200.0, 1.0]]], np.float32)
    there, squeezed_there = keypoints_to_image(keypoints, frames), keypoints_to_image(keypoints, squeezed_frames)
    np.testing.assert_allclose(squeezed_there * [1.5, 1, 1], there, atol=1e-3)
    both = crop_frames(np.concatenate([box, narrow]), CROP, sample_aspect_ratio=np.array([1.0, 1.5]))
    np.testing.assert_array_equal(both.size, np.concatenate([frames.size, squeezed_frames.size]))
