import cv2
import numpy as np
import pytest

from sharpose.errors import ExportError, SourceError
from sharpose.export.pictures import MAX_CROPS, choose_pictures, folder_pictures, scene_pictures

CROP = (128, 96)


def write(folder, name, colour, size=(200, 150)):
    cv2.imwrite(str(folder / name), np.full((*size, 3), colour, np.uint8))


def test_a_folders_pictures_are_crops_in_rgb(tmp_path):
    write(tmp_path, "b.png", (255, 0, 0))  # BGR: blue
    write(tmp_path, "a.png", (0, 10, 250))
    pictures = folder_pictures(tmp_path, CROP)
    assert pictures.crops.shape == (2, 128, 96, 3)
    assert pictures.crops.dtype == np.uint8
    assert pictures.crops[0, 64, 48].tolist() == [250, 10, 0]
    assert pictures.crops[1, 64, 48].tolist() == [0, 0, 255]
    assert pictures.origin == f"2 pictures of {tmp_path.name}"


def test_no_more_than_a_limit(tmp_path):
    for index in range(MAX_CROPS + 3):
        write(tmp_path, f"{index:03}.png", (1, 2, 3), (8, 8))
    pictures = folder_pictures(tmp_path, CROP)
    assert len(pictures.crops) == MAX_CROPS == 64
    assert pictures.usage == [f"{tmp_path}: 64 pictures used, 3 left out (3 after the first 64)"]


def test_pictures_that_cannot_be_decoded_are_left_out_and_counted(tmp_path):
    for index in range(MAX_CROPS + 3):
        write(tmp_path, f"{index:03}.png", (1, 2, 3), (8, 8))
    for name in ("000.png", "002.png", "066.png"):
        (tmp_path / name).write_text("no picture")
    (tmp_path / "notes.txt").write_text("no picture")
    pictures = folder_pictures(tmp_path, CROP)
    assert len(pictures.crops) == MAX_CROPS
    assert pictures.usage == [
        f"warning: {tmp_path}: left out 1 file that is neither a picture nor a video: .txt",
        f"{tmp_path}: 64 pictures used, 3 left out (2 that can't be read, 1 after the first 64)",
    ]


def test_what_is_no_folder_of_pictures(tmp_path):
    with pytest.raises(ExportError, match="expected a folder of pictures"):
        folder_pictures(tmp_path / "absent", CROP)
    with pytest.raises(SourceError):
        folder_pictures(tmp_path, CROP)
    for name in ("a.mp4", "b.mp4", "c.mov"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ExportError, match=f"^--images {tmp_path}: expected pictures, found 3 videos$"):
        folder_pictures(tmp_path, CROP)
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(SourceError):
        folder_pictures(tmp_path, CROP)


def test_the_scenes_people_are_the_same_every_time():
    first, again = (scene_pictures(CROP, count=3) for _ in range(2))
    assert first.crops.shape == (3, 128, 96, 3)
    assert (first.crops == again.crops).all()
    assert first.crops.std(axis=(1, 2)).min() > 5  # a picture, not a plain colour
    assert first.origin == "the built-in scene"


def test_int8_takes_every_other_crop_to_calibrate_on(tmp_path, nano_config):
    for index in range(5):
        write(tmp_path, f"{index}.png", (index * 40, 0, 0))
    pictures, labelled = choose_pictures(tmp_path, None, nano_config, int8=True)
    assert labelled is None
    assert [round(crop[64, 48].max() / 40) for crop in pictures.crops] == [0, 2, 4]
    assert [round(crop[64, 48].max() / 40) for crop in pictures.calibration] == [1, 3]
    pictures, _ = choose_pictures(tmp_path, None, nano_config)
    assert (len(pictures.crops), len(pictures.calibration)) == (5, 0)
