import dataclasses
import json
import logging
from importlib import resources
from pathlib import Path

import pytest
import yaml

from sharpose import skeleton as module
from sharpose.errors import ConfigError
from sharpose.skeleton import (
    BUILT_IN,
    COCO17,
    HALPE26,
    MPII16,
    SIDE_COLOURS,
    Skeleton,
    get_skeleton,
    load_skeleton,
    plain_name,
)

EVERY = pytest.mark.parametrize("skeleton", [get_skeleton(name) for name in BUILT_IN], ids=lambda item: item.name)


@pytest.fixture
def said(caplog):
    """What reading a skeleton told the user, a line each."""
    caplog.set_level(logging.WARNING, "sharpose.skeleton")
    return lambda: [record.getMessage() for record in caplog.records]


def test_every_file_is_a_built_in_skeleton():
    folder = resources.files("sharpose.configs") / "skeletons"
    assert {Path(entry.name).stem for entry in folder.iterdir()} == set(BUILT_IN)
    assert BUILT_IN[0] == "coco17"  # what a checkpoint with 17 keypoints that names none has


@EVERY
def test_mirror_images_agree_with_the_names(skeleton):
    swap = {"left": "right", "right": "left"}
    for index, mirrored in enumerate(skeleton.flip_order):
        name = skeleton.keypoints[index]
        if name.startswith("face_"):
            continue
        side, _, part = name.partition("_")
        expected = f"{swap[side]}_{part}" if side in swap else name
        assert skeleton.keypoints[mirrored] == expected
        assert skeleton.side(index) == (side if side in swap else "centre")
        if skeleton.name != "coco_wholebody133":  # whose feet were published with different ones
            assert skeleton.sigmas[index] == skeleton.sigmas[mirrored]


def test_a_face_is_mirrored_point_by_point():
    """The 68 points of iBUG: the jaw from one ear to the other, brows, nose, eyes, and the mouth twice around."""
    skeleton = get_skeleton("coco_wholebody133")
    mirrored = [int(skeleton.keypoints[skeleton.flip_order[23 + point]].removeprefix("face_")) for point in range(68)]
    assert mirrored[:17] == list(range(16, -1, -1))
    assert mirrored[17:27] == list(range(26, 16, -1))
    assert mirrored[27:36] == [27, 28, 29, 30, 35, 34, 33, 32, 31]
    assert mirrored[36:48] == [45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40]
    assert mirrored[48:60] == [54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55]
    assert mirrored[60:] == [64, 63, 62, 61, 60, 67, 66, 65]
    lefts = {skeleton.keypoints[left] for left, _ in skeleton.flip_pairs}
    assert {"face_16", "face_26", "face_35", "face_42", "face_54", "face_56", "face_64", "face_65"} <= lefts


@EVERY
def test_limbs_join_every_keypoint(skeleton):
    parts = [{index} for index in range(skeleton.num_keypoints)]
    for limb in skeleton.limbs:
        touched = [part for part in parts if part & set(limb)]
        parts = [part for part in parts if part not in touched] + [set().union(*touched)]
    # COCO's head hangs apart from the body; so do the eight parts of a face
    assert len(parts) == {"coco17": 2, "coco_wholebody133": 2 + 9}.get(skeleton.name, 1)


def test_published_numbers():
    assert COCO17.num_keypoints == 17
    assert COCO17.keypoints[0] == "nose"
    assert COCO17.keypoints[16] == "right_ankle"
    assert COCO17.sigmas[:5] == (0.026, 0.025, 0.025, 0.035, 0.035)
    assert COCO17.sigmas[11:] == (0.107, 0.107, 0.087, 0.087, 0.089, 0.089)
    assert MPII16.num_keypoints == 16
    assert MPII16.keypoints[9] == "head_top"
    assert MPII16.flip_order == (5, 4, 3, 2, 1, 0, 6, 7, 8, 9, 15, 14, 13, 12, 11, 10)
    assert HALPE26.keypoints[:17] == COCO17.keypoints
    assert HALPE26.sigmas == (*COCO17.sigmas, *[0.08] * 3, *[0.089] * 6)
    assert HALPE26.keypoints[17:22] == ("head", "neck", "hip", "left_big_toe", "right_big_toe")
    whole = get_skeleton("coco_wholebody133")
    assert whole.keypoints[17:20] == ("left_big_toe", "left_small_toe", "left_heel")
    assert (whole.sigmas[17], whole.sigmas[20], whole.sigmas[132]) == (0.068, 0.092, 0.031)
    assert [whole.keypoints[index] for index in (23, 90, 91, 112)] == [
        "face_0",
        "face_67",
        "left_hand_root",
        "right_hand_root",
    ]
    animal = get_skeleton("ap10k17")
    assert (animal.keypoints[3], animal.keypoints[10], animal.sigmas[7]) == ("neck", "right_front_paw", 0.062)
    assert all(get_skeleton(name).sigmas_from for name in BUILT_IN)


def test_halves_of_the_body():
    assert [name for name, upper in zip(HALPE26.keypoints, HALPE26.is_upper, strict=True) if upper] == [
        *COCO17.keypoints[:11],
        "head",
        "neck",
    ]
    assert get_skeleton("ap10k17").is_upper == (True,) * 4 + (False,) + (True,) * 6 + (False,) * 6
    by_names = dataclasses.replace(HALPE26, upper_body=None)
    assert by_names.is_upper == HALPE26.is_upper
    assert dataclasses.replace(COCO17, upper_body=()).is_upper == (False,) * 17


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"keypoints": ("a", "a")}, "unique"),
        ({"keypoints": ("a", " ")}, "keypoint 1: expected a name, got an empty one"),
        ({"keypoints": ("a", "b\tc")}, r"keypoint 1: expected printable characters.*, got '\\t' in 'b\\tc'"),
        ({"keypoints": ("a\r\n", "b")}, r"keypoint 0: expected printable characters.*, got '\\r'"),
        ({"keypoints": ("a", "\ud800")}, "keypoint 1: expected printable characters"),
        ({"keypoints": ("knee", "kn\u200bee")}, r"keypoint 1: expected printable characters.*, got '\\u200b'"),
        ({"keypoints": ("a\u202e", "b")}, r"keypoint 0: expected printable characters.*, got '\\u202e'"),
        ({"name": ""}, "skeleton '': name: expected a name, got an empty one"),
        ({"name": "a\nb"}, r"skeleton 'a\\nb': name: expected printable characters"),
        ({"sigmas": (0.1,)}, "2 sigmas"),
        ({"sigmas": (0.1, 0.0)}, "positive"),
        ({"sigmas": (0.1, float("nan"))}, "positive"),
        ({"limbs": ((0, 2),)}, "limb"),
        ({"limbs": ((-1, 0),)}, "limb"),
        ({"flip_pairs": ((0, 0),)}, "flip pair"),
        ({"flip_pairs": ((0, 1), (1, 0))}, "more than one"),
        ({"upper_body": (2,)}, r"upper_body: expected different indices in \[0, 2\), got \[2\]"),
        ({"upper_body": (1, 1)}, "upper_body"),
        ({"keypoint_colours": ("#ffffff",)}, "keypoint_colours: expected none or 2, got 1"),
        ({"limb_colours": ("#fffff",)}, "limb_colours: expected a colour such as '#ff8c00', got '#fffff'"),
    ],
)
def test_a_broken_skeleton_is_refused(change, words):
    good = Skeleton("two", ("a", "b"), ((0, 1),), ((0, 1),), (0.1, 0.1))
    with pytest.raises(ConfigError, match=words):
        dataclasses.replace(good, **change)


def test_an_unknown_name_is_refused_with_the_known_ones(tmp_path):
    assert get_skeleton("coco17") is COCO17
    with pytest.raises(ConfigError, match=r"'coco18'.*coco17.*mpii16"):
        get_skeleton("coco18")
    with pytest.raises(ConfigError, match=r"'coco18'.*coco17.*the file of one: a YAML, or COCO labels"):
        load_skeleton("coco18")
    (tmp_path / "mine").mkdir()
    with pytest.raises(ConfigError, match=r"skeleton .*mine: expected a YAML, or COCO labels .*, found a folder"):
        load_skeleton("mine", tmp_path)
    with pytest.raises(AttributeError, match="COCO18"):
        module.COCO18  # noqa: B018


RACKET = {
    "name": "tennis",
    "keypoints": ["left_wrist", "right_wrist", "grip", "tip"],
    "limbs": [["right_wrist", "grip"], ["grip", "tip"]],
    "flip_pairs": [["left_wrist", "right_wrist"]],
    "sigmas": {"left_wrist": 0.062, "right_wrist": 0.062, "grip": 0.05, "tip": 0.03},
    "upper_body": ["left_wrist", "right_wrist"],
    "colours": {"left": "#00FF00", "tip": "#ff0000"},
}


def test_a_file_of_ones_own(tmp_path, said):
    (tmp_path / "tennis.yaml").write_text(yaml.safe_dump(RACKET))
    found = load_skeleton("tennis.yaml", tmp_path)
    assert found == Skeleton(
        "tennis", tuple(RACKET["keypoints"]), ((1, 2), (2, 3)), ((0, 1),), (0.062, 0.062, 0.05, 0.03)
    )
    assert found.upper_body == (0, 1)
    assert found.keypoint_colours == ("#00ff00", SIDE_COLOURS["right"], SIDE_COLOURS["centre"], "#ff0000")
    assert found.limb_colours == (SIDE_COLOURS["right"], "#ff0000")
    assert said() == []
    assert load_skeleton(RACKET) == load_skeleton(tmp_path / "tennis.yaml") == found
    assert load_skeleton(RACKET | {"sigmas": 0.04}).sigmas == (0.04,) * 4
    by_index = {**dataclasses.asdict(found), "limbs": [[1, 2], [2, 3]]}  # as a bundle has it
    assert dataclasses.asdict(load_skeleton(by_index)) == dataclasses.asdict(found)


def test_what_a_file_leaves_out_is_said(tmp_path, said):
    file = tmp_path / "feet.yaml"
    file.write_text("keypoints: [LHeel, RHeel, 'Toe (left)', spur]")
    found = load_skeleton(file)
    assert (found.name, found.limbs, found.flip_pairs) == ("feet", (), ((0, 1),))
    assert found.sigmas == (0.089, 0.089, 0.05, 0.05)
    assert found.is_upper == (False, False, False, True)
    flips, _, sigmas = said()
    assert flips.endswith("names: LHeel/RHeel; without: Toe (left), spur")
    assert "taken are those of halpe26 by name, 0.05 for Toe (left), spur" in sigmas
    assert found.sigmas_from in sigmas


@pytest.mark.parametrize(
    ("names", "alone"),
    [
        (["nose", "left_hip", "left_knee"], "left_hip, left_knee"),
        (["left_hip", "right_knee", "nose"], "left_hip, right_knee"),
        (["LHip", "RHip", "Knee (right)"], "Knee (right)"),
        (["left_hip", "right_hip", "nose", "leftover", "left"], None),
    ],
)
def test_a_side_without_its_other_side_is_a_warning_of_its_own(said, names, alone):
    found = load_skeleton({"name": "own", "keypoints": names, "sigmas": 0.05})
    assert found.flip_pairs == (((0, 1),) if names[1] in ("right_hip", "RHip") else ())
    warned = [line for line in said() if "a side without its other side" in line]
    assert [line.split(": ")[2].split(";")[0] for line in warned] == ([] if alone is None else [alone])
    assert all("flip_probability=0 and flip_pairs: [] in a YAML" in line for line in warned)
    before = len(said())
    load_skeleton({"name": "own", "keypoints": names, "sigmas": 0.05, "flip_pairs": []})  # meant so
    assert len(said()) == before


@pytest.mark.parametrize(
    ("names", "foreign"),
    [
        (["linkes Knie", "rechtes Knie", "Nase"], "linkes Knie, rechtes Knie"),
        (["KnieLinks", "KnieRechts", "nose"], "KnieLinks, KnieRechts"),
        (["genou_gauche", "genou_droit", "cheville droite"], "genou_gauche, genou_droit, cheville droite"),
        (["ginocchio sinistro", "rodilla derecha", "joelho direito"], "ginocchio sinistro, rodilla derecha, joelho"),
        (["ginocchio dx", "ginocchio sx", "naso"], "ginocchio dx, ginocchio sx"),
        (["knie_li", "knie_re", "KnieInnenLi", "KnieInnenRe"], "knie_li, knie_re, KnieInnenLi, KnieInnenRe"),
        (["genou G", "genou D", "nez"], "genou G, genou D"),
        (["left_link", "right_link", "linked"], None),
        (["seam_d", "seam_e", "seam_f", "seam_g", "hand re", "knee g"], None),
        (["genou\u200cG", "zanu\u200cye chap"], None),  # joins words in Persian
    ],
)
def test_sides_in_another_language_are_a_warning(said, names, foreign):
    values = {"name": "own", "keypoints": names, "sigmas": 0.05}
    load_skeleton(values)
    warned = [line for line in said() if "sides are read in English alone" in line]
    assert len(warned) == (foreign is not None)
    assert all(f"in another language: {foreign}" in line and "give their flip_pairs" in line for line in warned)
    before = len(said())
    load_skeleton(values | {"flip_pairs": [names[:2]]})
    assert len(said()) == before


def test_a_pair_called_left_and_right_alone(said):
    found = load_skeleton({"name": "own", "keypoints": ["Right", "Left", "leftover", "rightover"], "sigmas": 0.05})
    assert found.flip_pairs == ((1, 0),)
    assert [line.split(": ", 1)[1] for line in said()] == [
        "flip pairs by left and right in the names: Left/Right; without: leftover, rightover"
    ]


@pytest.mark.parametrize("name", ["b\n", "\x1b[2J", ""])
def test_names_are_checked_before_they_are_printed(said, name):
    with pytest.raises(ConfigError, match=r"^skeleton: keypoint 1: expected (printable characters|a name)"):
        load_skeleton({"name": "n", "keypoints": ["a", name]})
    assert said() == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"limbs": [["grip", "tipp"]]}, "limbs: expected the name of a keypoint, got 'tipp'; did you mean 'tip'?"),
        ({"limbs": [["grip"]]}, "limbs.0.1: missing key"),
        ({"limbs": 5}, "limbs: expected a list, got 5"),
        ({"upper_body": ["nobody"]}, "upper_body: expected the name of a keypoint, got 'nobody'"),
        ({"sigmas": {"tip": 0.1}}, "sigmas: expected one for each keypoint, found none for left_wrist, right_wrist"),
        ({"sigmas": [0.1, 0.1, 0.1, "wide"]}, "sigmas.3: expected a number, got 'wide'"),
        ({"sigmas": 0}, "sigmas must be positive"),
        ({"colours": {"tip": "red"}}, "colours: tip: expected a colour such as '#ff8c00', got 'red'"),
        ({"colours": {"top": "#ff0000"}}, "colours: expected the name of a keypoint, got 'top'"),
        ({"keypoints": "grip"}, "keypoints: expected a list, got 'grip'"),
        ({"keypoints": [1, 2]}, "keypoints.0: expected text, got 1"),
        ({"sigma": 0.1}, "sigma: unknown key"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path, change, words):
    file = tmp_path / "tennis.yaml"
    file.write_text(yaml.safe_dump(RACKET | change))
    with pytest.raises(ConfigError) as refused:
        load_skeleton(file)
    assert words in str(refused.value)
    assert str(refused.value).startswith(f"skeleton {file}: ") or "positive" in words
    assert "\n" not in str(refused.value)


def labels(tmp_path: Path, *categories: object) -> Path:
    file = tmp_path / "labels.json"
    file.write_text(json.dumps({"images": [], "annotations": [], "categories": list(categories)}))
    return file


HAND = {"id": 1, "name": "person", "keypoints": ["Nose", "L_Ear", "R_Ear", "big toe"], "skeleton": [[1, 2], [1, 3]]}


def test_a_label_file_gives_its_own_keypoints(tmp_path, said):
    found = load_skeleton(labels(tmp_path, {"id": 2, "name": "car"}, HAND))
    assert found.keypoints == ("nose", "left_ear", "right_ear", "big_toe")
    assert found.limbs == ((0, 1), (0, 2))
    assert found.flip_pairs == ((1, 2),)
    assert found.sigmas == (0.026, 0.035, 0.035, 0.05)
    assert found.is_upper == (True, True, True, False)
    assert "left_ear/right_ear; without: nose, big_toe" in said()[0]
    assert "0.05 for big_toe" in said()[1]


def test_halpes_names_in_a_label_file_are_halpes_skeleton(tmp_path, said):
    names = [name.replace("left_", "L_").replace("right_", "R_").title() for name in HALPE26.keypoints]
    found = load_skeleton(labels(tmp_path, HAND | {"keypoints": names, "skeleton": []}))
    assert (found.keypoints, found.flip_pairs, found.sigmas) == (
        HALPE26.keypoints,
        HALPE26.flip_pairs,
        HALPE26.sigmas,
    )
    assert found.is_upper == HALPE26.is_upper
    assert said()[1].endswith("taken are those of halpe26, by name")


@pytest.mark.parametrize(
    ("categories", "words"),
    [
        ([], "found none in categories"),
        ([{"id": 1, "name": "person"}, 5], "found none in categories"),
        ([HAND | {"skeleton": [[0, 1]]}], "expected numbers from 1 to 4, as COCO counts keypoints, got [0, 1]"),
        ([HAND | {"skeleton": [[1, 5]]}], "expected numbers from 1 to 4"),
        ([HAND | {"skeleton": "none"}], "expected pairs of numbers, got 'none'"),
        ([HAND | {"keypoints": ["a", 1]}], "expected a list of names"),
        ([HAND | {"keypoints": ["", " ", "nose"]}], "keypoint 0: expected a name, got an empty one"),
        ([HAND | {"keypoints": ["L ear", "left_ear"], "skeleton": []}], "must be unique"),
        (
            [HAND | {"name": "cat"}, HAND | {"name": "dog", "keypoints": ["tail"]}],
            "categories 'cat' and 'dog' list different keypoints",
        ),
    ],
)
def test_a_label_file_without_a_skeleton_is_refused(tmp_path, categories, words):
    with pytest.raises(ConfigError) as refused:
        load_skeleton(labels(tmp_path, *categories))
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_names_are_written_alike():
    written = ("LBigToe", "left_big_toe", "Big toe (left)", "big-toe-L", "LEFT BIG TOE", "l.big.toe")
    assert {plain_name(name) for name in written} == {"left_big_toe"}
    assert [plain_name(name) for name in ("face-0", "nose", "Root of tail", "upperLeg", "?")] == [
        "face_0",
        "nose",
        "root_of_tail",
        "upper_leg",
        "?",
    ]
    for name in BUILT_IN:
        assert list(map(plain_name, get_skeleton(name).keypoints)) == list(get_skeleton(name).keypoints)
