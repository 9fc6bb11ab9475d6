import dataclasses

import pytest
import yaml

from sharpose.config import load_config, parse_config
from sharpose.errors import ConfigError

GOOD = {
    "name": "small",
    "skeleton": "coco17",
    "crop_size": [256, 192],
    "width": 48,
    "depth": 4,
    "heads": 6,
    "alpha": 0.4,
    "quality_threshold": 0.9,
}


def test_derived_numbers():
    config = parse_config(GOOD, source="test")
    assert config.num_keypoints == 17
    assert config.region_grid == (8, 6)
    assert config.num_regions == 48
    assert config.num_selected == 20
    assert config.heatmap_size == (64, 48)
    assert config.mlp_hidden == 192
    assert config.head_hidden_width == 1536


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"colour": "red"}, "colour: unknown key"),
        ({"crop_size": [250, 192]}, "multiples of 32, got 250x192"),
        ({"crop_size": [0, 192]}, "multiples of 32"),
        ({"crop_size": [-256, 192]}, "multiples of 32"),
        ({"crop_size": [256]}, "crop_size"),
        ({"crop_size": [256, 192, 3]}, "crop_size"),
        ({"crop_size": [256.5, 192]}, "crop_size"),
        ({"width": 50}, "width must be a multiple of heads, got 50 and 6"),
        ({"width": 0}, "width"),
        ({"depth": 0}, "depth"),
        ({"heads": -6}, "heads"),
        ({"alpha": 0}, "alpha"),
        ({"alpha": 1.01}, "alpha"),
        ({"alpha": float("nan")}, "alpha"),
        ({"quality_threshold": float("inf")}, "quality_threshold"),
        ({"quality_threshold": "high"}, "quality_threshold"),
        ({"head": "conv"}, "head"),
        ({"head_hidden": 12}, "head_hidden goes with head: mlp"),
        ({"quality_activation": "abs"}, "'abs' is not supported"),
        ({"quality_activation": "relu"}, "quality_activation"),
        ({"skeleton": "coco18"}, "coco18"),
        ({"skeleton": 17}, "skeleton"),
        ({"pixel_std": [0.2, 0.2, 0.0]}, "pixel_std"),
        ({"pixel_mean": [0.5, 0.5]}, "pixel_mean"),
        ({"name": ""}, "name"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line(change, words):
    with pytest.raises(ConfigError, match=words) as refused:
        parse_config(GOOD | change, source="test")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("width", "wide", "width: expected a whole number, got 'wide'"),
        ("width", 7.5, "width: expected a whole number, got 7.5"),
        ("width", 0, "width: expected more than 0, got 0"),
        ("depth", 999, "depth: expected at most 256, got 999"),
        ("alpha", None, "alpha: expected a number, got None"),
        ("alpha", "0.4x", "alpha: expected a number, got '0.4x'"),
        ("alpha", float("nan"), "alpha: expected a finite number, got nan"),
        ("name", 5, "name: expected text, got 5"),
        ("name", "", "name: expected text of at least 1 character, got ''"),
        ("crop_size", 256, "crop_size: expected a list, got 256"),
        ("crop_size", [256], "crop_size.1: missing key"),
        ("pixel_mean", [1, 2, 3, 4], "pixel_mean: expected at most 3 entries, got 4"),
        ("head", "round", "head: expected 'linear' or 'mlp', got 'round'"),
        ("skeleton", 5, "skeleton: expected a mapping of keys to values, got 5"),
        ("head_hidden", 5, "head_hidden goes with head: mlp, got head: linear"),
    ],
)
def test_a_problem_is_said_in_our_words(key, value, message):
    with pytest.raises(ConfigError) as refused:
        parse_config(GOOD | {key: value}, source="test")
    assert str(refused.value) == f"configuration test: {message}"


@pytest.mark.parametrize("key", sorted(set(GOOD)))
def test_a_missing_key_is_named(key):
    with pytest.raises(ConfigError, match=f"{key}: missing key"):
        parse_config({name: value for name, value in GOOD.items() if name != key}, source="test")


def test_more_problems_than_one_are_counted():
    with pytest.raises(ConfigError, match=r"and 1 more"):
        parse_config(GOOD | {"colour": 1, "shape": 2}, source="test")


def test_replace_validates():
    config = parse_config(GOOD, source="test")
    changed = config.replace({"alpha": 0.25, "crop_size": (384, 288)})
    assert (changed.alpha, changed.crop_size, changed.num_selected) == (0.25, (384, 288), 27)
    assert (config.alpha, config.crop_size) == (0.4, (256, 192))
    assert config.replace({}) == config
    with pytest.raises(ConfigError, match="unknown key"):
        config.replace({"alfa": 0.25})
    with pytest.raises(ConfigError, match="multiples of 32"):
        config.replace({"crop_size": (100, 100)})


def test_a_configuration_survives_json():
    config = parse_config(GOOD, source="test")
    assert parse_config(config.model_dump(mode="json"), source="test") == config


def test_a_skeleton_is_a_name_a_file_or_written_out(tmp_path, caplog):
    foot = {"keypoints": ["heel", "toe"], "limbs": [["heel", "toe"]], "flip_pairs": [], "sigmas": 0.09}
    (tmp_path / "foot.yaml").write_text(yaml.safe_dump(foot))
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(GOOD | {"skeleton": "foot.yaml"}))
    found = load_config(config)
    assert (found.skeleton.name, found.skeleton.limbs, found.skeleton.sigmas) == ("foot", ((0, 1),), (0.09, 0.09))
    config.write_text(yaml.safe_dump(GOOD | {"skeleton": foot | {"name": "foot"}}))
    assert load_config(config) == found
    assert parse_config(GOOD | {"skeleton": str(tmp_path / "foot.yaml")}, source="test") == found
    assert parse_config(GOOD | {"skeleton": "halpe26"}, source="test").num_keypoints == 26
    assert not caplog.records
    del foot["flip_pairs"]  # read as in a file of its own; in JSON, where all is written out, it must be there
    config.write_text(yaml.safe_dump(GOOD | {"skeleton": foot | {"name": "foot"}}))
    assert load_config(config) == found
    assert "flip pairs" in caplog.text
    with pytest.raises(ConfigError, match=r"skeleton\.flip_pairs: missing key"):
        parse_config(GOOD | {"skeleton": foot | {"name": "foot"}}, source="test")
    config.write_text(yaml.safe_dump(GOOD | {"skeleton": "absent.yaml"}))
    with pytest.raises(ConfigError, match=r"unknown skeleton 'absent\.yaml': expected one of coco17, "):
        load_config(config)


def test_colours_and_halves_survive_json():
    config = parse_config(GOOD | {"skeleton": "halpe26"}, source="test")
    again = parse_config(config.model_dump(mode="json"), source="test").skeleton
    assert dataclasses.asdict(again) == dataclasses.asdict(config.skeleton)


def test_an_unknown_key_inside_a_written_out_skeleton_is_refused():
    values = parse_config(GOOD, source="test").model_dump(mode="json")
    values["skeleton"]["colour"] = "red"
    with pytest.raises(ConfigError, match=r"skeleton\.colour: "):
        parse_config(values, source="test")


def test_a_file_is_read_like_a_shipped_one(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(GOOD))
    assert load_config(file) == parse_config(GOOD, source="test")
    assert load_config(str(file)) == load_config(file)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: [1, 2", "not valid YAML"),
        (b"a: b: c", "not valid YAML"),
        (b"!!python/object/apply:os.getcwd []", "not valid YAML"),
        (b"- 1\n- 2\n", "expected a mapping of keys to values, got list"),
        (b"", "it is empty"),
        (b"# words\n", "got NoneType"),
        (b"just words", "got str"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"1: 2\n", "mine.yaml"),
    ],
)
def test_a_broken_file_is_refused_in_one_line(tmp_path, content, words):
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=words) as refused:
        load_config(file)
    assert "\n" not in str(refused.value)


def test_an_unknown_name_lists_the_known_ones(tmp_path):
    with pytest.raises(ConfigError, match=r"'sharpose_huge'.*sharpose_tiny_coco_256x192"):
        load_config("sharpose_huge")
    with pytest.raises(ConfigError, match="Is a directory"):
        load_config(tmp_path)
