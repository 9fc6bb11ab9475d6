"""The newest picture: drawn and encoded for those who ask, once each."""

from __future__ import annotations

import threading
import weakref

import cv2
import numpy as np

from sharpose.runtime.serve.sink import Jpeg, NewestPicture


def test_nothing_is_drawn_unless_somebody_asks(make_record, drawing) -> None:
    newest = NewestPicture()
    for index in range(5):
        newest.put(make_record(index))
    assert drawing.calls == 0
    jpeg = newest.get()
    assert jpeg is not None
    assert jpeg.number == 5
    picture = cv2.imdecode(np.frombuffer(jpeg.data, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert picture.shape == (48, 64, 3)
    assert np.abs(picture[2, 2].astype(int) - 80).max() < 8  # the fifth
    assert picture[24, 32, 2] > 180  # as it was drawn on


def test_many_clients_share_one_encoding(make_record, drawing) -> None:
    newest = NewestPicture()
    newest.put(make_record(0))
    start = threading.Barrier(8)
    got = []

    def client() -> None:
        start.wait()
        got.append(newest.get())

    clients = [threading.Thread(target=client) for _ in range(8)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    assert len({id(jpeg) for jpeg in got}) == 1
    assert drawing.calls == 1


def test_waiting_for_another_picture(make_record) -> None:
    newest = NewestPicture()
    assert newest.get(wait=0.01) is None
    newest.put(make_record(0))
    assert newest.get(other_than=1) is None
    assert newest.get(other_than=77) is not None  # of an earlier run of the server
    got: list[Jpeg | None] = []
    client = threading.Thread(target=lambda: got.append(newest.get(other_than=1, wait=60)))
    client.start()
    newest.put(make_record(1))
    client.join(60)
    assert [jpeg and jpeg.number for jpeg in got] == [2]


def test_closing_wakes_those_who_wait(make_record) -> None:
    newest = NewestPicture()
    newest.put(make_record(0))
    got = []
    client = threading.Thread(target=lambda: got.append(newest.get(other_than=1, wait=600)))
    client.start()
    newest.close()
    client.join(60)
    assert got == [None]
    assert newest.get() is not None  # it can still be seen


def test_old_records_are_let_go(make_record) -> None:
    newest = NewestPicture()
    images = [np.zeros((48, 64, 3), np.uint8) for _ in range(2)]
    watched = [weakref.ref(image) for image in images]
    for index in range(2):
        newest.put(make_record(index, image=images[index]))
    images.clear()
    assert watched[0]() is None
    newest.get()
    assert watched[1]() is None  # its JPEG is enough


def test_a_picture_that_can_not_be_drawn_is_tried_again(make_record) -> None:
    newest = NewestPicture()
    newest.put(make_record(0, image=np.zeros((0, 0, 3), np.uint8)))
    for _ in range(2):
        try:
            newest.get()
        except cv2.error:
            continue
        raise AssertionError("an empty picture was encoded")
