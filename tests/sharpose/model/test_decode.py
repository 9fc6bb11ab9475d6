"""The decoder that goes into the graphs is the numpy decoder."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sharpose.config import list_configs, load_config
from sharpose.heatmap import decode_heatmaps
from sharpose.model.decode import HeatmapDecoder, row_of_peak

RECORDED = Path(__file__).parent.parent.parent / "data" / "released_decode.npz"
SIZE, CROP = (64, 48), (256, 192)
PIXEL = np.array([191 / 47, 255 / 63], np.float32)


def decode(heatmaps, size=SIZE, crop=CROP):
    with torch.no_grad():
        return HeatmapDecoder(size, crop)(torch.from_numpy(heatmaps)).numpy()


def gaussians(count, size=SIZE, seed=0, noise=0.0):
    rng = np.random.default_rng(seed)
    ys, xs = np.mgrid[: size[0], : size[1]]
    centers = rng.random((count, 2)) * [size[1] - 1, size[0] - 1]
    maps = np.exp(-((xs - centers[:, :1, None]) ** 2 + (ys - centers[:, 1:, None]) ** 2) / 8)
    return (maps + noise * rng.standard_normal(maps.shape)).astype(np.float32)[:, None]


@pytest.mark.parametrize(("size", "crop"), [((64, 48), (256, 192)), ((96, 72), (384, 288)), ((64, 64), (256, 256))])
@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_agrees_with_numpy(size, crop, noise):
    heatmaps = gaussians(60, size, noise=noise)
    found, expected = decode(heatmaps, size, crop), decode_heatmaps(heatmaps, crop)
    distance = np.abs(found - expected)[..., :2].max(axis=-1)
    assert np.median(distance) < 1e-3
    assert distance.max() < 0.02
    assert (found[..., 2] == expected[..., 2]).all()


def test_agrees_with_the_released_evaluation():
    with np.load(RECORDED) as file:
        names, heatmaps, expected, scores = (file[key] for key in ("names", "heatmaps", "keypoints_heatmap", "maxvals"))
    found = decode(heatmaps)
    distance = np.abs(found[..., :2] / PIXEL - expected).max(axis=-1)[0]
    assert {str(name): value for name, value in zip(names, distance, strict=True) if name != "constant"} == {
        str(name): pytest.approx(0, abs=1e-3) for name in names if name != "constant"
    }
    assert (found[..., 2] == scores).all()


@pytest.mark.parametrize("peak", [(0, 0), (47, 0), (0, 63), (47, 63), (20, 0), (0, 20), (47, 20), (20, 63)])
def test_peaks_at_borders_and_corners(peak):
    ys, xs = np.mgrid[:64, :48]
    heatmap = np.exp(-((xs - peak[0]) ** 2 + (ys - peak[1]) ** 2) / 8).astype(np.float32)[None, None]
    found = decode(heatmap)
    np.testing.assert_allclose(found, decode_heatmaps(heatmap, CROP), atol=2e-3)
    assert np.abs(found[0, 0, :2] / PIXEL - peak).max() < 0.51


def test_no_positive_value_and_flat_maps():
    heatmaps = np.zeros((1, 4, *SIZE), np.float32)
    heatmaps[0, 1] = -2
    heatmaps[0, 2] = 0.25
    heatmaps[0, 3] = 1e-6  # below the floor of the logarithm
    found = decode(heatmaps)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[0, :2, :2], [-PIXEL] * 2, rtol=1e-6)
    assert found[0, :2, 2].tolist() == [0, -2]
    assert np.abs(found[0, 2:, :2] / PIXEL).max() < 1
    np.testing.assert_allclose(found[0, 3, :2], 0, atol=1e-6)


def test_the_first_of_equal_peaks():
    heatmap = np.zeros((1, 1, *SIZE), np.float32)
    heatmap[0, 0, 50, 40] = heatmap[0, 0, 20, 30] = heatmap[0, 0, 20, 44] = 1
    np.testing.assert_allclose(decode(heatmap)[0, 0, :2] / PIXEL, (30, 20), atol=1e-3)


def test_a_batch_is_its_parts_and_the_same_every_time():
    heatmaps = gaussians(6, noise=0.05).reshape(2, 3, *SIZE)
    found = decode(heatmaps)
    assert (decode(heatmaps) == found).all()
    np.testing.assert_allclose(decode(heatmaps[1:]), found[1:], atol=1e-4)


HEATMAP_SIZES = sorted({load_config(name).heatmap_size for name in list_configs()})


@pytest.mark.parametrize("units", [-1, 0, 1])
@pytest.mark.parametrize("size", HEATMAP_SIZES)
def test_rows_are_right_for_every_pixel_also_with_a_reciprocal_one_unit_off(size, units, monkeypatch):
    height, width = size
    reciprocal = torch.tensor(1 / width, dtype=torch.float32)
    if units:
        reciprocal = torch.nextafter(reciprocal, reciprocal.new_tensor(float(units)))
    monkeypatch.setattr(torch.Tensor, "__truediv__", lambda value, _: value * reciprocal)
    peak = torch.arange(height * width)
    rows = row_of_peak(peak, width)
    assert rows.dtype == torch.int64
    assert rows.tolist() == [index // width for index in range(height * width)]
    if units < 0:  # without the half pixel every row but the first would begin one too high
        naive = (peak.to(torch.float32) / width).floor()
        assert (naive[width::width].to(torch.int64) == torch.arange(1, height) - 1).all()


@pytest.mark.parametrize("size", HEATMAP_SIZES)
def test_peaks_in_the_first_and_last_column(size):
    height, width = size
    crop = (4 * height, 4 * width)
    heatmaps = np.zeros((1, 2 * height, height, width), np.float32)
    rows = np.arange(height)
    heatmaps[0, rows, rows, 0] = heatmaps[0, height + rows, rows, width - 1] = 1
    found, expected = decode(heatmaps, size, crop), decode_heatmaps(heatmaps, crop)
    np.testing.assert_allclose(found, expected, atol=5e-3)
    rows_found = found[0, :, 1] * (height - 1) / (crop[0] - 1)
    assert np.abs(rows_found - np.concatenate([rows, rows])).max() < 1


def test_buffers_are_no_parameters():
    decoder = HeatmapDecoder(SIZE, CROP)
    assert decoder.state_dict() == {}
