"""The annotated picture of a record: several threads may ask for it, of one record or of several."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest

from sharpose.runtime.frames import Frame, FrameRecord
from sharpose.runtime.result import Boxes, Image, PoseResult

NOBODY = PoseResult(Boxes.empty(), np.zeros((0, 17, 3), np.float32), np.zeros(0, np.float32), np.zeros(0, np.bool_))


def record(draw: Callable[[Image, PoseResult], Image], ratio: Fraction = Fraction(1)) -> FrameRecord:
    frame = Frame(np.zeros((4, 6, 3), np.uint8), 0, 0.0, 0, sample_aspect_ratio=ratio)
    return FrameRecord(frame, NOBODY, draw)


def test_two_streams_draw_at_once() -> None:
    both = threading.Barrier(2)

    def draw(image: Image, poses: PoseResult) -> Image:
        both.wait(5)  # breaks where the other one isn't begun before this one ends
        return image + np.uint8(1)

    records = [record(draw), record(draw)]
    with ThreadPoolExecutor(2) as threads:
        pictures = list(threads.map(lambda one: one.picture, records))
    assert [picture.mean() for picture in pictures] == [1, 1]


@pytest.mark.parametrize("owned", [True, False])
def test_drawing_that_fails_on_the_way_is_not_begun_again(owned: bool) -> None:
    drawn: list[int] = []

    def draw(image: Image, poses: PoseResult) -> Image:
        image += np.uint8(10)
        drawn.append(1)
        if len(drawn) == 1:
            raise MemoryError("no room")
        return image

    image = np.zeros((4, 6, 3), np.uint8)
    one = FrameRecord(Frame(image, 0, 0.0, 0, owned=owned), NOBODY, draw)
    for name in ("picture", "picture", "square_picture"):
        with pytest.raises(MemoryError, match="no room"):
            getattr(one, name)
    assert drawn == [1]
    assert (image == (10 if owned else 0)).all()


def test_threads_that_share_a_record_draw_it_once() -> None:
    drawn: list[int] = []
    both_ask = threading.Barrier(2)

    def draw(image: Image, poses: PoseResult) -> Image:
        drawn.append(1)
        threading.Event().wait(0.05)  # for the other thread to ask, too
        return image.copy()

    one = record(draw, ratio=Fraction(2))

    def ask(name: str) -> Image:
        both_ask.wait(5)
        picture: Image = getattr(one, name)
        return picture

    with ThreadPoolExecutor(2) as threads:
        picture, square = threads.map(ask, ["picture", "square_picture"])
    assert drawn == [1]
    assert picture is one.picture
    assert square is one.square_picture
    assert (picture.shape, square.shape) == ((4, 6, 3), (4, 12, 3))
    assert record(draw).square_picture.shape == (4, 6, 3)


def paint(image: Image, poses: PoseResult) -> Image:
    image[:] = 7
    return image


@pytest.mark.parametrize(
    ("owned", "writeable", "wide", "on_itself"),
    [(True, True, False, True), (False, True, False, False), (True, False, False, False), (True, True, True, False)],
)
def test_only_a_picture_that_is_owned_and_can_be_drawn_on_is_changed(
    owned: bool, writeable: bool, wide: bool, on_itself: bool
) -> None:
    image = np.zeros((4, 12, 3), np.uint8)[:, : 6 if wide else 12]
    image.flags.writeable = writeable
    one = FrameRecord(Frame(image, 0, 0.0, 0, owned=owned), NOBODY, paint)
    assert (one.picture == 7).all()
    assert (image == (7 if on_itself else 0)).all()
    assert one.picture.flags.c_contiguous
