from pathlib import Path
from typing import Any

import pytest
import yaml

from sharpose.config import list_configs, load_config
from sharpose.errors import ConfigError
from sharpose.training.recipe import list_recipes, load_recipe, parse_recipe, write_recipe

# name: batch, epochs, layer decay, quality after epoch, sigma
PUBLISHED = {
    "sharpose_small_coco_256x192": (512, 250, 0.8, 210, 2.0),
    "sharpose_base_coco_256x192": (256, 210, 0.75, 180, 2.0),
    "sharpose_base_coco_384x288": (256, 210, 0.7, 180, 3.0),
}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_the_released_recipes(name: str) -> None:
    recipe = load_recipe(name)
    assert (
        recipe.batch_size,
        recipe.schedule.epochs,
        recipe.optimizer.layer_decay,
        recipe.loss.quality_after_epoch,
        recipe.data.sigma,
    ) == PUBLISHED[name]
    assert recipe.model == load_config(name)
    assert (recipe.optimizer.learning_rate, recipe.optimizer.weight_decay) == (5e-4, 0.1)
    assert recipe.schedule.step_epochs == (170, 200)
    assert (recipe.schedule.warmup_steps, recipe.schedule.warmup_from) == (500, 0.001)
    assert (recipe.drop_path, recipe.loss.quality, recipe.loss.mse) == (0.1, 0.03, 1.0)
    augmentation = recipe.data.augmentation
    assert (augmentation.shift, augmentation.scale, augmentation.rotation) == (0.16, 0.5, 40)
    # nothing beyond the paper
    assert (recipe.loss.cross_entropy, recipe.loss.dense, recipe.ema_decay) == (0, 0, None)
    assert not recipe.start.sine_positions
    assert not recipe.start.dct_patches
    assert recipe.optimizer.gradient_clip is None


def test_every_model_has_a_recipe() -> None:
    assert set(list_recipes()) == {*list_configs(), "sharpose_tiny_shipped"}
    for name in list_configs():
        assert load_recipe(name).model == load_config(name)


def test_the_weights_in_the_package_never_saw_what_they_are_measured_on() -> None:
    recipe = load_recipe("sharpose_tiny_shipped")
    assert recipe.model == load_config("sharpose_tiny_coco_256x192")
    assert all("train" in part.annotations for part in recipe.data.train if part.kind == "coco")
    assert not set(recipe.data.train) & set(recipe.data.evaluation)


def test_they_are_trained_on_photographs_first() -> None:
    parts = load_recipe("sharpose_tiny_shipped").data.train
    scenes = sum(part.weight for part in parts if part.kind == "scene")
    assert 0 < scenes / sum(part.weight for part in parts) <= 0.1


def test_recipes_of_the_paper_have_none_of_our_additions() -> None:
    for name in set(list_configs()) - {"sharpose_tiny_coco_256x192"}:
        recipe = load_recipe(name)
        assert not recipe.data.augmentation.changes_pixels
        assert (recipe.guidance, recipe.teacher, recipe.precision) == (None, None, "fp32")


def test_changes(nano_recipe: Path) -> None:
    recipe = load_recipe(
        nano_recipe,
        [
            "optimizer.learning_rate=1e-4",
            "ema_decay=0.99",
            "data.train.0.weak_weight=0.5",
            "schedule.step_epochs=[1, 2]",
            "model.alpha=0.25",
            "loss.cross_entropy_epochs=null",
        ],
    )
    assert recipe.optimizer.learning_rate == 1e-4
    assert recipe.optimizer.layer_decay == 0.9
    assert recipe.ema_decay == 0.99
    assert recipe.data.train[0].model_dump()["weak_weight"] == 0.5
    assert recipe.schedule.step_epochs == (1, 2)
    assert recipe.model.alpha == 0.25
    named = load_recipe("sharpose_small_coco_256x192", ["model.alpha=0.3"])
    assert named.model == load_config("sharpose_small_coco_256x192").replace({"alpha": 0.3})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("optimizer.lr=1", "optimizer.lr: unknown key"),
        ("learning_rate=1", "learning_rate: unknown key"),
        ("drop_path=1.5", "drop_path: expected less than 1, got 1.5"),
        ("drop_path", "--set drop_path: expected key=value"),
        ("batch_size.x=1", "no batch_size.x in the recipe"),
        ("data.train.7.limit=1", "no data.train.7.limit in the recipe"),
        ("drop_path=[", "not valid YAML"),
        ("accumulate=3", "batch_size 8 can't be shared by 3 accumulated batches"),
        ("data.train.0.kind=voc", "data.train.0: kind: expected one of 'coco', 'mpii', 'scene', got 'voc'"),
        ("workers=10000000", "workers: expected at most 1024, got 10000000"),
        ("batch_size=1" + "0" * 400, "batch_size: "),
        ("seed=9223372036854775808", "seed: expected at most 9223372036854775807, got 9223372036854775808"),
        ("data.cache_mib=1e300", "data.cache_mib: "),
        ("data.train.²=1", "no data.train.² in the recipe"),
        ("data.train.0.images='a\0b'", "not valid YAML"),
        ('data.train.0.images="a\\0b"', "data.train.0.coco.images: "),
        ("start.init_head_factor=.inf", "start.init_head_factor: "),
        (
            "data.augmentation.padding=1.1",
            "padding: expected 1.25, with which evaluation, bundles and sharpose-run crop, got 1.1; leave it out",
        ),
        ("model.width=7", "width must be a multiple of heads"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(nano_recipe: Path, change: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(nano_recipe, [change])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_batch_that_processes_cannot_share_is_refused(nano_values: dict[str, Any]) -> None:
    recipe = parse_recipe(nano_values | {"accumulate": 2}, source="test")
    assert recipe.batch_of_rank(2) == 2
    with pytest.raises(ConfigError, match="give a multiple of 6"):
        recipe.batch_of_rank(3)


def test_files_that_are_no_recipes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no recipe 'nothing': expected a YAML file or one of sharpose_base_coco"):
        load_recipe("nothing")
    (tmp_path / "list.yaml").write_text("[1, 2]")
    with pytest.raises(ConfigError, match="expected a mapping"):
        load_recipe(tmp_path / "list.yaml")


def test_what_is_noted_is_the_recipe_as_run(nano_recipe: Path, tmp_path: Path) -> None:
    recipe = load_recipe(nano_recipe, ["ema_decay=0.5"])
    write_recipe(recipe, tmp_path / "noted.yaml")
    assert load_recipe(tmp_path / "noted.yaml") == recipe


def test_a_skeleton_of_ones_own(nano_values: dict[str, Any], tmp_path: Path) -> None:
    nano_values["model"]["skeleton"] = {
        "name": "hand",
        "keypoints": ["wrist", "left", "right"],
        "limbs": [[0, 1], [0, 2]],
        "flip_pairs": [[1, 2]],
        "sigmas": [0.1, 0.1, 0.1],
    }
    (tmp_path / "hand.yaml").write_text(yaml.safe_dump(nano_values))
    recipe = load_recipe(tmp_path / "hand.yaml")
    assert recipe.model.num_keypoints == 3
    assert recipe.model.skeleton.flip_order == (0, 2, 1)
