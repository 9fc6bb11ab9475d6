"""The crop against an independent computation, in the units and formulas of the released pipeline's description."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from pydantic import ValidationError

from sharpose.geometry import crop_frames, extract_crops
from sharpose.skeleton import COCO17, MPII16
from sharpose.training.data.augment import (
    AugmentSpec,
    CropSample,
    draw_pixel_change,
    half_body,
    make_crop,
)
from sharpose.training.data.sample import Sample

CROP = (256, 192)
SEEDS = 30
Array = npt.NDArray[np.float64]


def a_sample(seed: int = 0, labelled: int = 17, size: tuple[int, int] = (150, 200)) -> Sample:
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (size[0] // 10, size[1] // 10, 3)).astype(np.uint8)
    image = np.asarray(cv2.resize(blocks, (size[1], size[0]), interpolation=cv2.INTER_LINEAR), np.uint8)
    points = np.column_stack([rng.uniform(60, 150, 17), rng.uniform(20, 130, 17), np.full(17, 2.0)])
    points[labelled:] = 0
    return Sample(
        image_bgr=image,
        box_xyxy=np.array([50.5, 12.25, 160, 140], np.float32),
        keypoints=points.astype(np.float32),
        weights=(points[:, 2] > 0).astype(np.float32),
        image_id=1,
        annotation_id=2,
        source="a test",
    )


class Expected:
    """The steps one by one: center in pixels, scale in units of 200 pixels, coordinates warped by complex numbers."""

    def __init__(self, sample: Sample, spec: AugmentSpec, rng: np.random.Generator) -> None:
        points = sample.keypoints.astype(np.float64)
        image = sample.image_bgr
        x1, y1, x2, y2 = sample.box_xyxy.astype(np.float64)
        aspect = CROP[1] / CROP[0]
        center = np.array([(x1 + x2) / 2, (y1 + y2) / 2])
        scale = self._scale(x2 - x1, y2 - y1, aspect) * spec.padding
        if rng.random() < spec.shift_probability:
            center = center + rng.uniform(-1, 1, 2) * spec.shift * scale * 200
        self.flipped = rng.random() < spec.flip_probability
        if self.flipped:
            image = image[:, ::-1]
            for left, right in COCO17.flip_pairs:
                points[[left, right]] = points[[right, left]]
            points[:, 0] = image.shape[1] - points[:, 0] - 1
            center[0] = image.shape[1] - center[0] - 1
        seen = points[:, 2] > 0
        self.half = ""
        if seen.sum() > 8 and rng.random() < spec.half_body_probability:
            upper = points[:11][seen[:11]]  # nose to wrists
            lower = points[11:][seen[11:]]  # hips to ankles
            wants_upper = rng.standard_normal() < 0.5
            chosen = upper if (wants_upper and len(upper) > 2) or len(lower) <= 2 else lower
            self.half = "upper" if chosen is upper else "lower"
            center = chosen[:, :2].mean(axis=0)
            width, height = chosen[:, :2].max(axis=0) - chosen[:, :2].min(axis=0)
            scale = self._scale(float(width), float(height), aspect) * 1.5
        self.factor = float(np.clip(rng.standard_normal() * spec.scale + 1, 1 - spec.scale, 1 + spec.scale))
        angle = np.clip(rng.standard_normal() * spec.rotation, -2 * spec.rotation, 2 * spec.rotation)
        self.rotation = float(angle) if rng.random() < spec.rotation_probability else 0.0
        self.center, self.size, self.image, self.points, self.seen = (
            center,
            scale * 200 * self.factor,
            image,
            points,
            seen,
        )

    @staticmethod
    def _scale(width: float, height: float, aspect: float) -> Array:
        if width > aspect * height:
            height = width / aspect
        else:
            width = height * aspect
        return np.array([width, height]) / 200

    def to_crop(self, points: Array) -> Array:
        turned = ((points[:, 0] - self.center[0]) + 1j * (points[:, 1] - self.center[1])) * np.exp(
            1j * np.deg2rad(self.rotation)
        )
        x = (turned.real + self.size[0] / 2) * (CROP[1] - 1) / self.size[0]
        y = (turned.imag + self.size[1] / 2) * (CROP[0] - 1) / self.size[1]
        return np.column_stack([x, y])

    def pixel(self, x: int, y: int) -> Array | None:
        """RGB at crop pixel (x, y), bilinear; None near the picture's border."""
        turned = complex(
            x * self.size[0] / (CROP[1] - 1) - self.size[0] / 2, y * self.size[1] / (CROP[0] - 1) - self.size[1] / 2
        )
        turned *= np.exp(-1j * np.deg2rad(self.rotation))
        u, v = turned.real + self.center[0], turned.imag + self.center[1]
        column, row = int(np.floor(u)), int(np.floor(v))
        if not (1 <= column < self.image.shape[1] - 2 and 1 <= row < self.image.shape[0] - 2):
            return None
        fx, fy = u - column, v - row
        around = self.image[row : row + 2, column : column + 2].astype(np.float64)
        mixed = np.einsum("y,x,yxc->c", [1 - fy, fy], [1 - fx, fx], around)
        return np.asarray(mixed[::-1])


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_crop_equals_the_independent_computation(seed: int) -> None:
    sample, spec = a_sample(seed), AugmentSpec()
    crop = make_crop(sample, spec, CROP, COCO17, np.random.default_rng(seed))
    expected = Expected(sample, spec, np.random.default_rng(seed))

    assert crop.flipped == expected.flipped
    assert crop.rotation == pytest.approx(expected.rotation)
    np.testing.assert_allclose(crop.center, expected.center, atol=1e-4)
    np.testing.assert_allclose(crop.size, expected.size, rtol=1e-5)
    np.testing.assert_allclose(crop.keypoints[:, :2], expected.to_crop(expected.points), atol=2e-3)
    compared = 0
    for x, y in np.random.default_rng(99).integers(0, (CROP[1], CROP[0]), (300, 2)):
        pixel = expected.pixel(int(x), int(y))
        if pixel is None:
            continue
        # OpenCV samples at 1/32 of a pixel; the picture changes by up to 25.5 a pixel in each direction.
        assert np.abs(crop.crop[y, x] - pixel).max() < 2 * 25.5 / 32 + 1
        compared += 1
    assert compared > 20


def test_all_the_steps_occur_in_those_seeds() -> None:
    made = [Expected(a_sample(seed), AugmentSpec(), np.random.default_rng(seed)) for seed in range(SEEDS)]
    assert {item.flipped for item in made} == {True, False}
    assert {item.half for item in made} == {"", "upper", "lower"}
    assert any(item.rotation == 0 for item in made)
    assert any(item.rotation != 0 for item in made)


def test_without_augmentation_it_is_the_runtimes_crop() -> None:
    sample = a_sample()
    crop = make_crop(sample, AugmentSpec.none(), CROP, COCO17, np.random.default_rng(0))
    frames = crop_frames(sample.box_xyxy[None], CROP)
    expected = extract_crops(sample.image_bgr, frames, np.empty((1, *CROP, 3), np.uint8))[0]
    assert np.array_equal(crop.crop, expected)
    assert (crop.flipped, crop.rotation) == (False, 0.0)


def many(spec: AugmentSpec, sample: Sample, count: int = 1200) -> list[CropSample]:
    rng = np.random.default_rng(1)
    return [make_crop(sample, spec, (32, 32), COCO17, rng) for _ in range(count)]


def test_how_often_and_how_far() -> None:
    sample = a_sample(size=(60, 80))
    crops = many(AugmentSpec(half_body_probability=0), sample)
    assert np.mean([crop.flipped for crop in crops]) == pytest.approx(0.5, abs=0.05)
    angles = np.array([crop.rotation for crop in crops])
    assert np.mean(angles != 0) == pytest.approx(0.6, abs=0.05)
    assert np.abs(angles).max() == 80
    box_side = 1.25 * 127.75  # the taller side, in a square crop
    factors = np.array([crop.size[1] for crop in crops]) / box_side
    assert (factors.min(), factors.max()) == (pytest.approx(0.5), pytest.approx(1.5))
    # A normal number beyond one deviation is clipped: 16 % on each side.
    assert np.mean(factors > 1.499) == pytest.approx(0.16, abs=0.04)
    last = sample.image_bgr.shape[1] - 1
    shifts = np.array([last - crop.center[0] if crop.flipped else crop.center[0] for crop in crops]) - 105.25
    moved = np.abs(shifts) > 1e-3
    assert np.mean(moved) == pytest.approx(0.3, abs=0.05)
    assert np.abs(shifts).max() == pytest.approx(0.16 * box_side, rel=0.05)


@pytest.mark.parametrize(("labelled", "occurs"), [(8, False), (9, True)])
def test_half_bodies_need_more_than_eight_keypoints(labelled: int, occurs: bool) -> None:
    spec = AugmentSpec(half_body_probability=1, shift_probability=0, flip_probability=0, scale=0)
    crop = make_crop(a_sample(labelled=labelled), spec, CROP, COCO17, np.random.default_rng(0))
    whole = a_sample().box_xyxy
    is_whole = np.allclose(crop.center, [(whole[0] + whole[2]) / 2, (whole[1] + whole[3]) / 2])
    assert is_whole != occurs


def test_unlabelled_keypoints_stay_zero_and_weights_change_sides() -> None:
    sample = a_sample(labelled=6)  # left shoulder labelled, right one not
    weights = sample.weights.copy()
    weights[1] = 0.5  # the left eye
    sample = Sample(**{**vars(sample), "weights": weights})
    spec = AugmentSpec(flip_probability=1)
    crop = make_crop(sample, spec, CROP, COCO17, np.random.default_rng(0))
    assert crop.flipped
    assert crop.weights.tolist() == [1, 1, 0.5, 1, 1, 0, 1] + [0] * 10
    assert not crop.keypoints[[5, 7, 16]].any()
    assert crop.keypoints[6, 2] == 2


def test_a_label_without_trust_is_no_label() -> None:
    sample = a_sample()
    weights = sample.weights.copy()
    weights[3] = 0
    crop = make_crop(
        Sample(**{**vars(sample), "weights": weights}), AugmentSpec.none(), CROP, COCO17, np.random.default_rng(0)
    )
    assert not crop.keypoints[3].any()
    assert crop.weights[3] == 0


def test_a_box_of_one_pixel_makes_a_crop() -> None:
    sample = Sample(**{**vars(a_sample()), "box_xyxy": np.array([70, 70, 70, 70], np.float32)})
    crop = make_crop(sample, AugmentSpec.none(), (256, 256), MPII16, np.random.default_rng(0))
    assert crop.size.tolist() == [1.0, 1.0]
    assert np.isfinite(crop.keypoints).all()


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ValidationError, match="flip"):
        AugmentSpec(flip=0.5)  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match="scale"):
        AugmentSpec(scale=1.0)


POINTS = np.column_stack([np.linspace(10, 42, 17), np.linspace(5, 85, 17)]).astype(np.float32)
ALL = np.ones(17, np.bool_)


def test_the_upper_halves_are_the_datasets_own() -> None:
    assert np.flatnonzero(COCO17.is_upper).tolist() == list(range(11))
    assert np.flatnonzero(MPII16.is_upper).tolist() == [7, 8, 9, 10, 11, 12, 13, 14, 15]


def test_upper_comes_when_a_normal_number_is_below_one_half() -> None:
    rng = np.random.default_rng(0)
    frames = [half_body(POINTS, ALL, COCO17, CROP, rng) for _ in range(2000)]
    tops = [frame[0][1] < 45 for frame in frames if frame is not None]
    assert len(tops) == 2000
    assert np.mean(tops) == pytest.approx(0.6915, abs=0.03)


def test_the_frame_is_centred_on_the_mean_and_grown_by_half() -> None:
    upper = np.zeros(17, np.bool_)
    upper[[0, 5, 10]] = True
    frame = half_body(POINTS, upper, COCO17, CROP, np.random.default_rng(0))
    assert frame is not None
    center, size = frame
    assert center == pytest.approx([20.0, 30.0])  # points at x 10, 20, 30 and y 5, 30, 55
    assert size == pytest.approx([50 * 0.75 * 1.5, 50 * 1.5])


def test_too_few_keypoints_make_no_frame() -> None:
    one = np.zeros(17, np.bool_)
    one[0] = True
    assert half_body(POINTS, one, COCO17, CROP, np.random.default_rng(0)) is None


def test_a_half_of_two_gives_way_to_the_other() -> None:
    mostly_lower = np.zeros(17, np.bool_)
    mostly_lower[[0, 1, 11, 13, 15]] = True
    for seed in range(20):
        frame = half_body(POINTS, mostly_lower, COCO17, CROP, np.random.default_rng(seed))
        assert frame is not None
        assert frame[0][1] == pytest.approx(POINTS[[11, 13, 15], 1].mean())


COLOURS: dict[str, Any] = {"brightness": 0.3, "colour": 0.15, "contrast": 0.3, "lightness": 20}
CUT_OUT: dict[str, Any] = {"cut_out_probability": 0.5, "cut_out_sides": (0.1, 0.35)}


def test_colours_and_cut_outs_are_off_by_default_and_change_no_crop() -> None:
    """Their chance is drawn last, so that the crops of a recipe stay the same when they are turned on."""
    sample = a_sample(1)
    plain = make_crop(sample, AugmentSpec(), CROP, COCO17, np.random.default_rng(5))
    assert plain.change is None
    changed = make_crop(sample, AugmentSpec(**COLOURS, **CUT_OUT), CROP, COCO17, np.random.default_rng(5))
    assert changed.change is not None
    assert (changed.crop == plain.crop).all()
    assert (changed.keypoints == plain.keypoints).all()
    assert not AugmentSpec.none().changes_pixels


def test_a_colour_change_by_hand() -> None:
    crop = np.random.default_rng(0).integers(0, 256, (*CROP, 3)).astype(np.uint8)
    change = draw_pixel_change(crop, AugmentSpec(**COLOURS), np.random.default_rng(7))
    rng = np.random.default_rng(7)
    channel = 1 + rng.uniform(-0.15, 0.15, 3)
    brightness, contrast, lightness = rng.uniform(-0.3, 0.3), rng.uniform(-0.3, 0.3), rng.uniform(-20, 20)
    mean = crop[::4, ::4].mean(axis=(0, 1))
    # the mean becomes brighter, and differences from it grow by the contrast
    expected = (crop - mean) * (1 + contrast) + mean * channel * (1 + brightness) + lightness
    found = crop * change.gain.numpy() + change.offset.numpy()[0]
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert change.hole.tolist() == [[0, 0, 0, 0]]


def test_cut_outs_lie_in_the_crop_with_sides_as_told() -> None:
    crop, rng = np.zeros((*CROP, 3), np.uint8), np.random.default_rng(3)
    changes = [draw_pixel_change(crop, AugmentSpec(**CUT_OUT), rng) for _ in range(400)]
    assert all(change.gain.item() == 1 and not change.offset.any() for change in changes)
    holes = np.array([change.hole[0].numpy() for change in changes if change.hole.any()])
    assert 160 < len(holes) < 240
    assert holes[:, :2].min() == 0
    assert holes[:, 2].max() <= 192
    assert holes[:, 3].max() <= 256
    for sides, extent in ((holes[:, 2] - holes[:, 0], 192), (holes[:, 3] - holes[:, 1], 256)):
        assert sides.min() >= int(0.1 * extent)
        assert sides.max() <= int(0.35 * extent)
        assert sides.std() > 0.05 * extent
    fills = np.array([change.fill[0].numpy() for change in changes])
    np.testing.assert_allclose(fills.std(axis=0), 1, atol=0.15)


def test_sides_that_are_no_shares_are_refused() -> None:
    for sides in ((0.4, 0.2), (0, 0.2), (0.5, 1.1)):
        with pytest.raises(ValidationError, match="expected 0 < smallest <= largest <= 1"):
            AugmentSpec(cut_out_sides=sides)
