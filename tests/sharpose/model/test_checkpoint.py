"""Checkpoints: what is read, and what is refused."""

import argparse
import collections
import datetime
import json
import os
import pickle
import sys

import numpy as np
import pytest
import torch
from score_tables import score_tables

from sharpose.errors import CheckpointError, ConfigError, how_to_install
from sharpose.model import load_model, random_model, save_checkpoint
from sharpose.model.weights_file import read_checkpoint


@pytest.fixture
def released(tmp_path, nano):
    """Writes `nano` as the released code does: no configuration inside; returns the path."""

    def write(change=None, meta=None, **options):
        state = {key: value.clone() for key, value in nano.state_dict().items()}
        if change is not None:
            change(state)
        path = tmp_path / "released.pth"
        torch.save({"meta": meta or {"epoch": 210, "CLASSES": ("person",)}, "state_dict": state}, path, **options)
        return path

    return write


def refused(path, *words, error=CheckpointError, **arguments):
    with pytest.raises(error) as found:
        load_model(path, **arguments)
    message = str(found.value)
    assert "\n" not in message
    assert len(message) < 500
    for word in words:
        assert word in message
    return message


def test_a_released_file_loads_strictly(released, nano, nano_config, image):
    loaded = load_model(released(), nano_config)
    assert loaded.config == nano_config
    assert loaded.notes == ()
    assert loaded.source == "checkpoint released.pth"
    assert not loaded.model.training
    assert {key: value.dtype for key, value in loaded.model.state_dict().items()} == dict.fromkeys(
        nano.state_dict(), torch.float32
    )
    with torch.no_grad():
        assert torch.equal(loaded.model(image).heatmaps, nano(image).heatmaps)


def test_the_old_torch_format_loads_too(released, nano):
    path = released(_use_new_zipfile_serialization=False)
    assert torch.equal(load_model(path).model.backbone.norm.weight, nano.backbone.norm.weight)


def test_without_a_configuration_it_is_read_off_and_what_is_assumed_is_said(released):
    loaded = load_model(released())
    config = loaded.config
    assert (config.crop_size, config.width, config.depth, config.num_keypoints) == ((128, 96), 24, 2, 17)
    assert (config.alpha, config.heads, config.quality_threshold) == (0.5, 12, 0.99)
    assert loaded.notes[0] == "no --config: sharpose_c24_d2_128x96 was read off the checkpoint"
    (warning,) = loaded.warnings
    assert "doesn't say alpha 0.5, heads 12, quality threshold 0.99, which are assumed" in warning
    assert "give --config" in warning


def test_what_is_given_is_not_assumed(released):
    loaded = load_model(released(), changes={"alpha": 0.25, "heads": 4})
    assert (loaded.config.alpha, loaded.config.heads) == (0.25, 4)
    assert "doesn't say quality threshold 0.99, which are assumed" in loaded.warnings[0]
    loaded = load_model(released(), changes={"alpha": 0.25, "heads": 4, "quality_threshold": 0.5})
    assert loaded.warnings == ()


def test_the_alpha_in_a_files_name_is_used_and_a_given_one_comes_first(released, nano_config):
    path = released()
    named = path.rename(path.with_name("best_Alpha0.25_128x96.pth"))
    loaded = load_model(named)
    assert (loaded.config.alpha, loaded.config.num_selected) == (0.25, 3)
    assert "alpha 0.25 is in its name" in loaded.notes[0]
    assert "alpha" not in loaded.warnings[0]
    given = load_model(named, changes={"alpha": 0.75})
    assert given.config.alpha == 0.75
    assert "alpha" not in given.notes[0]
    (warning,) = load_model(named, nano_config.replace({"alpha": 0.5})).warnings
    assert "its name says alpha 0.25; 0.5 is used" in warning
    assert load_model(named, nano_config.replace({"alpha": 0.25})).warnings == ()


def test_changes_go_over_a_given_configuration(released, nano_config):
    assert load_model(released(), nano_config, changes={"alpha": 0.75}).config == nano_config.replace({"alpha": 0.75})


def test_our_own_checkpoints_carry_their_configuration(tmp_path, nano_config):
    config = nano_config.replace({"heads": 3, "alpha": 0.3, "quality_threshold": 0.7, "name": "mine", "head": "mlp"})
    model = random_model(config, seed=5).model
    save_checkpoint(tmp_path / "own.pth", model)
    loaded = load_model(tmp_path / "own.pth")
    assert loaded.config == config
    assert loaded.notes == ()
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[key], value)


def test_score_tables_come_along_where_nothing_else_is_computed(tmp_path, nano_config):
    path = tmp_path / "own.pth"
    model = random_model(nano_config, seed=5).model
    save_checkpoint(path, model, score_tables())
    loaded = load_model(path, changes={"quality_threshold": 0.3})
    assert (loaded.scores, loaded.notes) == (score_tables(), ())
    assert load_model(path, nano_config.replace({"name": "another"})).scores == score_tables()
    for other in (
        load_model(path, changes={"alpha": 0.25}),
        load_model(path, size=(256, 192)),
        load_model(path, nano_config.replace({"heads": 6})),
    ):
        assert other.scores is None
        assert other.notes[-1].startswith(
            "its score tables are left out, as they were fitted with another configuration"
        )
    save_checkpoint(path, model)
    assert load_model(path).scores is None


def test_broken_score_tables_are_refused(released, nano_config):
    refused(released(meta={"sharpose_scores": {"coarse": 1}}), "sharpose_scores: coarse: ", config=nano_config)
    meta = {"sharpose_scores": score_tables().model_dump(mode="json")}
    refused(released(meta=meta), "sharpose_scores: expected sharpose_config beside it, got none", config=nano_config)


def test_an_own_configuration_that_cant_be_read_is_set_aside_by_a_given_one(released, nano_config):
    meta = {"sharpose_config": {**nano_config.model_dump(mode="json"), "of_another_version": 1}}
    path = released(meta=meta)
    loaded = load_model(path, nano_config)
    (warning,) = loaded.warnings
    assert "its own configuration can't be read (" in warning
    assert warning.endswith("; the given one is used")
    assert loaded.config == nano_config
    with pytest.raises(ConfigError, match=r"of_another_version: unknown key; give --config$"):
        load_model(path)


def test_what_a_given_configuration_contradicts_is_said(tmp_path, nano_config):
    """The weights fit both, so nothing else would show."""
    own = nano_config.replace({"heads": 3, "alpha": 0.3})
    path = tmp_path / "own.pth"
    save_checkpoint(path, random_model(own, seed=5).model)
    for given in (own, own.replace({"name": "another"})):
        loaded = load_model(path, given)
        assert (loaded.config, loaded.notes, loaded.warnings) == (given, (), ())
    other = {"heads": 6, "quality_activation": "sigmoid", "pixel_mean": (0, 0.5, 0), "crop_size": (96, 128)}
    loaded = load_model(path, own.replace(other))
    assert loaded.warnings == (
        "checkpoint own.pth: its own configuration says crop size 128 96, not 96 128; heads 3, not 6; quality "
        "activation gelu, not sigmoid; pixel mean 0.485 0.456 0.406, not 0 0.5 0. What is given is used: if that is "
        "wrong, so are the poses",
    )
    assert (loaded.config.heads, loaded.notes) == (6, ())
    (warning,) = load_model(path, own.replace({"skeleton": "ap10k17"})).warnings
    assert "says skeleton coco17, not ap10k17. What is given is used" in warning
    loaded = load_model(path, own.replace({"alpha": 0.5, "quality_threshold": 0.75}), changes={"alpha": 0.5})
    assert loaded.warnings == ()
    assert loaded.notes == (
        f"the checkpoint's own configuration says quality threshold {own.quality_threshold}, not 0.75; what is given "
        "is used",
    )


def test_half_precision_files_become_float32(released, nano):
    loaded = load_model(released(lambda state: state.update({key: value.half() for key, value in state.items()})))
    weight = loaded.model.backbone.norm.weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, nano.backbone.norm.weight.half().float())


def test_numpy_numbers_in_the_metadata_are_read(released):
    meta = {"hook_msgs": {"best_score": np.float64(0.758), "epoch": np.int64(3)}, "config": "model = dict()"}
    assert read_checkpoint(released(meta=meta))[1]["hook_msgs"]["best_score"] == 0.758


def test_missing_keys_are_named(released, nano_config):
    path = released(lambda state: [state.pop(key) for key in ("backbone.norm.weight", "backbone.norm.bias")])
    refused(path, "missing backbone.norm.bias, backbone.norm.weight", config=nano_config)
    path = released(lambda state: state.pop("backbone.keypoint_tokens"))
    refused(path, "not a SHaRPose checkpoint, backbone.keypoint_tokens is missing")
    refused(path, "missing backbone.keypoint_tokens", config=nano_config)


def test_unknown_keys_are_named_and_counted(released):
    extra = {f"backbone.extra{index}": torch.ones(1) for index in range(6)}
    message = refused(released(lambda state: state.update(extra)), "unknown backbone.extra0, backbone.extra1")
    assert "and 2 more" in message


def test_wrong_shapes_are_named_with_both(released, nano_config):
    path = released(lambda state: state.update({"backbone.norm.weight": torch.ones(23)}))
    refused(path, "wrong shape backbone.norm.weight (expected [24], got [23])", "--config", config=nano_config)


def test_another_models_configuration_is_refused(released, nano_config):
    refused(released(), "missing backbone.blocks.2.", config=nano_config.replace({"depth": 3}))
    refused(released(), "wrong shape", "--size", config=nano_config.replace({"crop_size": (256, 192)}))
    refused(released(), "keypoint_head.heatmap_mlp.4.weight", config=nano_config.replace({"head": "mlp"}))


def test_two_quality_outputs_are_refused_as_abs(released, nano_config):
    def change(state):
        state["backbone.quality_predictor.mlp.6.weight"] = torch.zeros(2, 24)
        state["backbone.quality_predictor.mlp.6.bias"] = torch.zeros(2)

    for config in (None, nano_config):
        refused(released(change), "'abs'", "two outputs", config=config)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused(released, value):
    def change(state):
        state["backbone.norm.weight"][3] = value

    refused(released(change), "NaN or infinity in backbone.norm.weight")


@pytest.mark.parametrize(
    "content",
    [b"", b"hello\n", b"just some words, many of them\n" * 50, b"PK\x03\x04", b"\x80\x02}q\x00.", os.urandom(500)],
    ids=["empty", "short text", "text", "zip magic", "empty dict", "noise"],
)
def test_files_that_are_no_checkpoint(tmp_path, content):
    path = tmp_path / "notes.pth"
    path.write_bytes(content)
    refused(path, "notes.pth")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_truncated_files(released, share):
    path = released()
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(path, "not a readable PyTorch checkpoint")


def test_no_file_and_a_folder(tmp_path):
    refused(tmp_path / "absent.pth", "found nothing")
    (tmp_path / "last.pth").write_bytes(b"x")
    refused(tmp_path / "best.pth", "found nothing; the run hasn't been evaluated yet: give last.pth")
    refused(tmp_path, "found a folder")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([torch.ones(2)], "got list"),
        (torch.ones(2), "got Tensor"),
        ({"model": {}}, "not a SHaRPose checkpoint"),
        ({"weights": 3, "epoch": 1}, "got ['epoch', 'weights']"),
        ({"state_dict": 3}, "'state_dict'"),
        ({"state_dict": {"a": 3}, "meta": {}}, "expected tensors by name"),
        ({"state_dict": {3: torch.ones(2)}, "meta": {}}, "expected tensors by name"),
        ({"state_dict": {}}, "not a SHaRPose checkpoint"),
        ({"state_dict": {}, "meta": None}, "not a SHaRPose checkpoint"),
    ],
)
def test_other_torch_files(tmp_path, content, words):
    torch.save(content, tmp_path / "other.pth")
    refused(tmp_path / "other.pth", words)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("backbone.keypoint_tokens", torch.ones(24)),
        ("backbone.keypoint_tokens", torch.ones(1, 17, 0)),
        ("backbone.pos_embed_list.0", torch.tensor(1.0)),
        ("backbone.pos_embed_list.1", torch.ones(1, 47, 24)),
        ("backbone.blocks.0.mlp.fc1.weight", torch.tensor(1.0)),
        ("backbone.quality_predictor.mlp.6.weight", torch.tensor(1.0)),
        ("keypoint_head.heatmap_mlp.4.weight", torch.tensor(1.0)),
        ("backbone.keypoint_tokens", torch.ones(1, 18, 24)),
    ],
)
def test_tensors_of_strange_shapes(released, key, value):
    refused(released(lambda state: state.update({key: value})))


def test_a_configuration_inside_that_is_broken(released):
    refused(released(meta={"sharpose_config": {"name": "x"}}), "missing key", error=ConfigError)
    refused(released(meta={"sharpose_config": 3}), "expected a mapping of keys to values, got 3", error=ConfigError)


@pytest.mark.parametrize(
    ("wrap", "words"),
    [
        (lambda state: state, "the file itself, a bare state dict"),
        (lambda state: {"model": state, "epoch": 3}, "read from 'model'"),
        (lambda state: {"model_state_dict": state}, "read from 'model_state_dict'"),
        (lambda state: {"ema": {"module": state}}, "read from 'ema.module'"),
        (
            lambda state: {"state_dict": state, "ema_state_dict": state},
            "of 'state_dict' were read; the file holds 'ema_state_dict' too",
        ),
        (lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}}, "took module. off the names of "),
        (lambda state: {"state_dict": {f"_orig_mod.{k}": v for k, v in state.items()}}, "took _orig_mod. off"),
        (
            lambda state: {"state_dict": {f"module._orig_mod.{k}": v for k, v in state.items()}},
            "took module. and _orig_mod. off",
        ),
        (
            lambda state: {"state_dict": {k.replace("backbone.", "backbone._orig_mod."): v for k, v in state.items()}},
            "took _orig_mod. off",
        ),
        (lambda state: {"state_dict": {f"ema_{k}": v for k, v in state.items()}}, "took ema_ off"),
        (
            lambda state: {"state_dict": state | {f"ema_{k.replace('.', '_')}": v + 1 for k, v in state.items()}},
            "left out 50 tensors of an average kept beside the weights: ema_backbone_",
        ),
        (
            lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()} | {"n_averaged": torch.ones(1)}},
            "left out 1 tensor of an average",
        ),
        (lambda state: {"state_dict": state | {"epoch": 3}}, "left out what is no tensor: epoch"),
    ],
)
def test_what_other_tools_make_of_a_checkpoint_is_read_with_a_note(tmp_path, nano, nano_config, wrap, words):
    torch.save(wrap(dict(nano.state_dict())), tmp_path / "other.pth")
    loaded = load_model(tmp_path / "other.pth", nano_config)
    assert words in "; ".join(loaded.notes)
    assert all(torch.equal(value, nano.state_dict()[key]) for key, value in loaded.model.state_dict().items())


def test_a_tensor_under_two_names(released, nano_config):
    def change(state):
        state["backbone._orig_mod.norm.weight"] = state["backbone.norm.weight"]

    refused(released(change), "with and without _orig_mod.", config=nano_config)


def write_safetensors(path, state):
    """As the format's page has it: 8 bytes of length, JSON, numbers."""
    header, numbers = {}, b""
    for key, value in state.items():
        end = len(numbers) + value.nbytes
        header[key] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [len(numbers), end]}
        numbers += value.numpy().tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + numbers)


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
def test_safetensors_are_read(tmp_path, nano, nano_config, name):
    pytest.importorskip("safetensors")
    write_safetensors(tmp_path / name, nano.state_dict())
    loaded = load_model(tmp_path / name, nano_config)
    assert torch.equal(loaded.model.backbone.norm.weight, nano.backbone.norm.weight)
    content = (tmp_path / name).read_bytes()
    for broken in (content[:-5], content[:100], content.replace(b"F32", b"F99")):
        (tmp_path / "b.safetensors").write_bytes(broken)
        refused(tmp_path / "b.safetensors", "not a readable safetensors file")


def test_safetensors_without_the_library(tmp_path, nano, monkeypatch):
    write_safetensors(tmp_path / "a.safetensors", nano.state_dict())
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    refused(tmp_path / "a.safetensors", how_to_install("safetensors"))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: torch.ones(1).expand(24), "an expanded one, [24] of 4 bytes"),
        (lambda: torch.zeros(1).expand(10**12), "an expanded one, [1000000000000] of 4 bytes"),
        (lambda: torch.ones(24, device="meta"), "meta device"),
        (lambda: torch.ones(24).to_sparse(), "a sparse_coo one"),
        (lambda: torch.ones(4, 6).to_sparse_csr(), "a sparse_csr one"),
        (lambda: torch.ones(24, dtype=torch.complex64), "a complex64 one"),
        (lambda: torch.quantize_per_tensor(torch.ones(24), 1.0, 0, torch.qint8), "a qint8 one"),
    ],
    ids=["expanded", "expanded by far", "meta", "sparse", "csr", "complex", "quantized"],
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_that_are_not_plain_are_named(released, make, words):
    refused(released(lambda state: state.update({"backbone.norm.weight": make()})), "backbone.norm.weight: ", words)


def test_integers_are_no_weights(released):
    change = {"backbone.norm.weight": torch.ones(24, dtype=torch.int8)}
    refused(released(lambda state: state.update(change)), "not floating-point backbone.norm.weight (torch.int8)")


def test_one_storage_behind_many_tensors(tmp_path):
    block = torch.ones(1 << 20, dtype=torch.half)
    torch.save({"state_dict": {f"backbone.blocks.{n}.x": block for n in range(200)}}, tmp_path / "a.pth")
    refused(tmp_path / "a.pth", "expected tensors of their own, got 419430400 bytes of them in a file of")


def test_a_configuration_that_claims_more_than_the_file_holds(tmp_path, nano, nano_config):
    claimed = nano_config.replace({"width": 6144, "depth": 2, "heads": 12})
    meta = {"sharpose_config": claimed.model_dump(mode="json")}
    torch.save({"state_dict": nano.state_dict(), "meta": meta}, tmp_path / "a.pth")
    refused(tmp_path / "a.pth", "wrong shape backbone.blocks.0.attn.proj.bias (expected [6144], got [24])")


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("kind", ["pickle 2", "pickle 4", "in meta", "in state_dict", "old torch"])
def test_a_pickle_that_would_run_code_does_not(tmp_path, kind):
    witness, path = tmp_path / "it-ran", tmp_path / "evil.pth"
    evil = Evil(witness)
    if kind.startswith("pickle"):
        path.write_bytes(pickle.dumps(evil, protocol=int(kind[-1])))
    elif kind == "in meta":
        torch.save({"meta": evil, "state_dict": {}}, path)
    elif kind == "in state_dict":
        torch.save({"meta": {}, "state_dict": {"backbone.norm.weight": evil}}, path)
    else:
        torch.save({"meta": evil, "state_dict": {}}, path, _use_new_zipfile_serialization=False)
    named = [] if kind == "pickle 4" else [f"holds {os.system.__module__}.system"]  # torch reads no further
    refused(path, "refused", "could run code", *named)
    assert not witness.exists()
    pickle.loads(pickle.dumps(evil))
    assert witness.exists()  # it would have


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (np.zeros(3), "multiarray._reconstruct"),
        (np.uint8(1), "numpy.dtypes.UInt8DType"),
        (collections.defaultdict(int), "collections.defaultdict"),
        (datetime.datetime(2026, 1, 1), "datetime.datetime"),
        (argparse.Namespace(lr=1), "argparse.Namespace"),
    ],
    ids=["array", "uint8", "defaultdict", "datetime", "Namespace"],
)
def test_the_type_that_is_refused_is_named(released, value, name):
    refused(released(meta={"x": value}), f"{name}, and loading it could run code; save the state dict alone")


def test_random_weights_are_seeded(nano_config):
    before = torch.random.get_rng_state()
    first, again, other = (random_model(nano_config, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert first.source == "random weights, seed 0"
    states = [loaded.model.state_dict() for loaded in (first, again, other)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not torch.equal(states[0]["backbone.keypoint_tokens"], states[2]["backbone.keypoint_tokens"])
    assert not first.model.training
