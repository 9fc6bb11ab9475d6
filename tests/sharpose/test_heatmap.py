"""Decoding in numpy, against closed forms and against what the released evaluation decoded."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from sharpose.errors import InputError
from sharpose.heatmap import blur_matrix, decode_heatmaps

CROP = (256, 192)
SIZE = (64, 48)
RECORDED = Path(__file__).parent.parent / "data" / "released_decode.npz"


def gaussian(x, y, sigma=2.0, size=SIZE):
    ys, xs = np.mgrid[: size[0], : size[1]]
    return np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / (2 * sigma**2)).astype(np.float32)


def to_heatmap(keypoints, size=SIZE, crop=CROP):
    """x, y in heatmap pixels."""
    return keypoints[..., :2] * np.float32([(size[1] - 1) / (crop[1] - 1), (size[0] - 1) / (crop[0] - 1)])


@pytest.mark.parametrize("size", [(64, 48), (96, 72), (12, 7)])
def test_blur_matrix_is_the_gaussian_blur_of_opencv(size):
    picture = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    expected = cv2.GaussianBlur(picture, (11, 11), 0)
    np.testing.assert_allclose(blur_matrix(size[0]) @ picture @ blur_matrix(size[1]).T, expected, atol=1e-6)


def test_blur_matrix_keeps_a_constant():
    for size in (1, 2, 5, 48):
        np.testing.assert_allclose(blur_matrix(size).sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("center", [(20.3, 31.7), (23.5, 40.5), (15.0, 20.0), (30.49, 12.02)])
def test_the_centre_of_a_gaussian_is_found_between_pixels(center):
    found = decode_heatmaps(gaussian(*center)[None, None], CROP)
    assert found.shape == (1, 1, 3)
    assert found.dtype == np.float32
    np.testing.assert_allclose(to_heatmap(found)[0, 0], center, atol=2e-3)
    assert found[0, 0, 2] == gaussian(*center).max()


def test_agrees_with_the_released_evaluation():
    with np.load(RECORDED) as file:
        names, heatmaps, expected, scores = (file[key] for key in ("names", "heatmaps", "keypoints_heatmap", "maxvals"))
    found = decode_heatmaps(heatmaps, CROP)
    distance = np.abs(to_heatmap(found) - expected).max(axis=-1)[0]
    clear = names != "constant"  # its Hessian is nothing but rounding
    assert dict(zip(names[clear], distance[clear], strict=True)) == pytest.approx(
        dict.fromkeys(names[clear], 0), abs=2e-4
    )
    assert distance[~clear] < 1.0
    assert (found[..., 2] == scores).all()


def test_no_positive_value_is_no_peak():
    heatmaps = np.zeros((1, 3, *SIZE), np.float32)
    heatmaps[0, 1] = -1
    heatmaps[0, 2] = -1
    heatmaps[0, 2, 10, 10] = -1e-9
    found = decode_heatmaps(heatmaps, CROP)
    np.testing.assert_allclose(found[0, :, :2], [[-191 / 47, -255 / 63]] * 3, rtol=1e-6)
    assert found[0, :, 2].tolist() == pytest.approx([0, -1, -1e-9])


def test_a_flat_map_stays_at_its_first_pixel():
    found = decode_heatmaps(np.full((1, 1, *SIZE), 0.5, np.float32), CROP)
    assert np.isfinite(found).all()
    assert np.abs(to_heatmap(found)).max() < 1
    assert found[0, 0, 2] == 0.5


@pytest.mark.parametrize("peak", [(0, 0), (47, 0), (0, 63), (47, 63), (20, 0), (0, 20), (47, 20), (20, 63)])
def test_a_peak_at_the_border_stays_within_half_a_pixel_of_it(peak):
    found = to_heatmap(decode_heatmaps(gaussian(*peak)[None, None], CROP))[0, 0]
    assert np.abs(found - peak).max() < 0.51
    along = [axis for axis in (0, 1) if peak[axis] == 20]
    np.testing.assert_allclose(found[along], np.float32(peak)[along], atol=1e-3)


def test_the_first_of_two_equal_peaks():
    heatmap = np.maximum(gaussian(10, 40), gaussian(30, 20))
    np.testing.assert_allclose(to_heatmap(decode_heatmaps(heatmap[None, None], CROP))[0, 0], (30, 20), atol=2e-3)


def test_people_and_joints_are_independent_and_the_same_every_time():
    heatmaps = np.random.default_rng(3).standard_normal((3, 4, *SIZE)).astype(np.float32)
    before = heatmaps.copy()
    found = decode_heatmaps(heatmaps, CROP)
    assert (decode_heatmaps(heatmaps, CROP) == found).all()
    assert (heatmaps == before).all()
    assert (decode_heatmaps(heatmaps[1:2, 2:3], CROP)[0, 0] == found[1, 2]).all()


def test_nobody_and_wrong_axes():
    assert decode_heatmaps(np.zeros((0, 17, *SIZE), np.float32), CROP).shape == (0, 17, 3)
    with pytest.raises(InputError, match=r"expected shape \[n, J, h, w\], got \[17, 64, 48\]"):
        decode_heatmaps(np.zeros((17, *SIZE), np.float32), CROP)
