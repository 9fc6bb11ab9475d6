"""People found by motion: drawn walkers before a textured wall, whose boxes are known."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import lru_cache

import cv2
import numpy as np
import pytest

from sharpose.runtime.detectors.motion import MotionBoxes
from sharpose.runtime.frames import Frame
from sharpose.runtime.result import Boxes
from sharpose.similarity import box_iou

HEIGHT, WIDTH = 180, 320
RATE = 25
PIXELS = WIDTH / 480  # of the picture, for one in the scene's 480 x 270, which walkers are drawn in

PATCHES = np.random.default_rng(0).integers(150, 230, (20, 34, 3), dtype=np.uint8)


WALL = cv2.resize(PATCHES, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)


def wall() -> np.ndarray:
    """A wall with patches: something to recognise the view by."""
    return WALL.copy()


def draw(picture: np.ndarray, x: float, feet: float, size: float = 80, step: float = 0, shade: int = 45) -> list[float]:
    """A walker `size` high, the middle at x, all in the scene's pixels; returns the box in the picture's."""
    x, feet, size = x * PIXELS, feet * PIXELS, size * PIXELS
    colour = (shade, shade + 10, shade)

    def at(right: float, up: float) -> tuple[int, int]:
        return round(x + right * size), round(feet - up * size)

    stride = 0.09 * np.sin(step)
    for side in (-1, 1):
        cv2.line(picture, at(0, 0.5), at(side * (0.03 + stride), 0.03), colour, max(round(0.1 * size), 1))
    cv2.ellipse(picture, at(0, 0.64), (round(0.15 * size), round(0.2 * size)), 0, 0, 360, colour, -1)
    cv2.circle(picture, at(0, 0.92), max(round(0.075 * size), 1), colour, -1)
    return [x - 0.15 * size, feet - size, x + 0.15 * size, feet]


@lru_cache(maxsize=16)
def noise(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 2, shape).round().astype(np.int16)


def frame(picture: np.ndarray, index: int) -> Frame:
    noisy = np.asarray(cv2.add(picture, noise(picture.shape, index % 16), dtype=cv2.CV_8U), np.uint8)
    return Frame(noisy, index, index / RATE, index)


def found(boxes: Boxes, box: list[float], least: float = 0.5) -> bool:
    overlap = box_iou(np.array([box], np.float32), boxes.xyxy)
    return bool(overlap.size and overlap.max() >= least)


def walk(index: int, *, speed: float = 60, first: float = 40) -> float:
    """Where in the scene a walker is who turns round at its ends."""
    way = 480 - 80
    gone = (first - 40 + speed * index / RATE) % (2 * way)
    return 40 + (gone if gone < way else 2 * way - gone)


def three_walkers(picture: np.ndarray, index: int) -> list[list[float]]:
    return [
        draw(picture, walk(index, first=40 + 150 * row), feet, size, step=index / 4)
        for row, (feet, size) in enumerate([(95, 70), (180, 80), (262, 90)])
    ]


def test_walkers_are_found_and_nobody_else() -> None:
    warned: list[str] = []
    detector = MotionBoxes(warn=warned.append)
    hits = wanted = reported = 0
    for index in range(150):
        picture = wall()
        true = three_walkers(picture, index)
        boxes = detector.boxes_for(frame(picture, index))
        if index < 7:
            assert len(boxes) == 0  # the background is being learned
        if index >= 75:
            hits += sum(found(boxes, box) for box in true)
            wanted += len(true)
            reported += len(boxes)
    assert hits > 0.95 * wanted
    assert reported < 1.1 * wanted
    assert warned == []


def test_an_empty_place_stays_empty() -> None:
    warned: list[str] = []
    detector = MotionBoxes(warn=warned.append)
    assert sum(len(detector.boxes_for(frame(wall(), index))) for index in range(60)) == 0
    assert warned == []


def test_who_stops_is_still_there_and_who_stood_there_leaves_no_ghost() -> None:
    detector, stood = MotionBoxes(), [0.0] * 4
    for index in range(200):
        picture = wall()
        x = 100 + max(index - 25, 0) * 3 if index < 105 else 340
        box = draw(picture, x, 200, step=x / 12)
        if index == 0:
            stood = box
        boxes = detector.boxes_for(frame(picture, index))
        if index >= 110:
            assert found(boxes, box)
            assert not found(boxes, stood, 0.1)


def test_a_pair_is_taken_apart_once_the_size_of_people_is_known() -> None:
    detector = MotionBoxes()
    both = 0
    for index in range(160):
        picture = wall()
        if index < 100:
            three_walkers(picture, index)
            pair = []
        else:  # shoulder to shoulder
            x = 60 + 4 * (index - 100)
            pair = [draw(picture, x, 180, step=index / 4), draw(picture, x + 27, 181, step=index / 4 + 1)]
        boxes = detector.boxes_for(frame(picture, index))
        if index >= 110:
            both += all(found(boxes, box, 0.4) for box in pair)
    assert both > 0.8 * 50


def test_a_camera_that_shakes_and_drifts_is_followed() -> None:
    warned: list[str] = []
    detector = MotionBoxes(warn=warned.append)
    hits = reported = 0
    for index in range(125):
        picture = wall()
        true = three_walkers(picture, index)
        x, y = 4 * PIXELS * np.sin(index / 7), 0.05 * PIXELS * index
        moved = cv2.warpAffine(
            picture, np.array([[1, 0, x], [0, 1, y]]), (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT
        )
        boxes = detector.boxes_for(frame(moved, index))
        if index >= 75:
            hits += sum(found(boxes, [box[0] + x, box[1] + y, box[2] + x, box[3] + y]) for box in true)
            reported += len(boxes)
    assert hits > 0.9 * 50 * 3
    assert reported < 1.25 * 50 * 3
    assert warned == []


@pytest.mark.parametrize("what", ["the light changed", "the camera moved"])
def test_a_change_of_everything_is_said_once_and_learned(what: str) -> None:
    said: list[str] = []
    detector = MotionBoxes(said.append)
    hits = 0
    for index in range(135):
        after = index >= 40
        picture = wall()
        if after and what == "the light changed":
            picture = (picture * 0.4).astype(np.uint8)
        elif after:
            picture = np.roll(picture, (90, 140), (0, 1))
        true = draw(picture, walk(index), 200, step=index / 4, shade=10)
        boxes = detector.boxes_for(frame(picture, index))
        if 41 <= index < 55:
            assert len(boxes) == 0  # a whole picture of differences is nobody
        if index >= 110:
            hits += found(boxes, true)
    assert len(said) == 1
    assert "learning the background again" in said[0]
    assert "at 2." in said[0]
    assert "the light or the view changed" in said[0]  # the new view shows nothing that can be recognised
    assert hits > 0.9 * 25


def test_a_camera_that_pans_is_warned_of_once() -> None:
    said: list[str] = []
    warned: list[str] = []
    detector = MotionBoxes(said.append, warned.append)
    long = cv2.resize(np.tile(PATCHES, (1, 4, 1)), (WIDTH * 4, HEIGHT), interpolation=cv2.INTER_CUBIC)
    for index in range(90):
        view = long[:, 14 * index : 14 * index + WIDTH].copy()
        draw(view, walk(index), 200, step=index / 4)
        detector.boxes_for(frame(view, index))
    (line,) = warned
    assert line.startswith("--detector motion needs a camera that stands still, but by ")
    assert line.endswith("take --detector NAME")
    assert len(said) <= 1


@pytest.mark.parametrize("speed", [1, 2])  # pixels a frame
def test_a_slow_pan_is_warned_of_before_the_view_is_lost(speed: int) -> None:
    said: list[str] = []
    warned: list[str] = []
    detector = MotionBoxes(said.append, warned.append)
    texture = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH + 200, 3), dtype=np.uint8)
    texture = np.asarray(cv2.GaussianBlur(texture, (0, 0), 2), np.uint8)
    texture = np.asarray(cv2.normalize(texture, texture.copy(), 0, 255, cv2.NORM_MINMAX), np.uint8)
    for index in range(90):
        detector.boxes_for(Frame(texture[:, speed * index : speed * index + WIDTH], index, index / RATE, index))
    assert [line.partition("but by ")[2][4:].partition(":")[0] for line in warned] == ["s the camera seems to pan"]
    assert said == []  # the warning says it


def test_a_knock_is_no_pan() -> None:
    warned: list[str] = []
    detector = MotionBoxes(warn=warned.append)
    for index in range(75):
        picture = np.roll(wall(), 16 if index > 30 else 0, axis=1)
        detector.boxes_for(frame(picture, index))
    assert warned == []


def test_a_clip_of_five_frames_is_too_short_to_tell_people_from_their_ghosts() -> None:
    detector = MotionBoxes()
    for index in range(5):  # at 5 frames a second, so the background is a second old at the end
        picture = wall()
        three_walkers(picture, 5 * index)
        assert len(detector.boxes_for(Frame(picture, index, index / 5, index))) == 0


def test_a_picture_of_oblong_pixels_is_seen_with_square_ones() -> None:
    detector, ratio = MotionBoxes(), Fraction(64, 45)
    hits = 0
    for index in range(70):
        picture = wall()
        box = np.array(draw(picture, walk(index), 200, step=index / 4))
        squeezed = cv2.resize(picture, (round(WIDTH / ratio), HEIGHT), interpolation=cv2.INTER_AREA)
        given = replace(frame(squeezed, index), sample_aspect_ratio=ratio)
        boxes = detector.boxes_for(given)
        hits += index >= 40 and found(boxes, (box * [1 / ratio, 1, 1 / ratio, 1]).astype(float).tolist())
    assert hits > 27


def test_a_flash_is_forgotten() -> None:
    said: list[str] = []
    detector = MotionBoxes(said.append)
    for index in range(100):
        picture = wall()
        box = draw(picture, walk(index), 200, step=index / 4)
        boxes = detector.boxes_for(frame(picture if index not in (70, 71) else 255 - picture, index))
        if index in (70, 71):
            assert len(boxes) == 0
        if index > 75:
            assert found(boxes, box)
    assert said == []


@pytest.mark.parametrize("size", [(1, 1), (2, 300), (300, 2), (40, 40), (1080, 1920)])
def test_pictures_of_any_size(size: tuple[int, int]) -> None:
    detector = MotionBoxes()
    for index in range(12):
        picture = np.random.default_rng(index).integers(0, 256, (*size, 3), dtype=np.uint8)
        xyxy = detector.boxes_for(Frame(picture, index, index / 5, index)).xyxy
        assert (xyxy >= 0).all()
        assert (xyxy <= np.array([size[1], size[0]] * 2)).all()


def test_another_frame_size_is_learned_again() -> None:
    detector = MotionBoxes()
    for index in range(75):
        picture = wall()
        box = draw(picture, walk(index), 200, step=index / 4)
        if index >= 40:
            picture = cv2.resize(picture, (WIDTH * 2, HEIGHT * 2))
        boxes = detector.boxes_for(frame(picture, index))
        if index == 40:
            assert len(boxes) == 0
        if index >= 68:
            assert found(boxes, [2 * value for value in box])


def test_a_clock_that_stands_or_jumps() -> None:
    detector = MotionBoxes()
    for index, time in enumerate([0, 0, 0, 100, 100, 50, 1e6]):
        picture = wall()
        draw(picture, 100 + 10 * index, 200)
        detector.boxes_for(Frame(picture, index, float(time), index))
