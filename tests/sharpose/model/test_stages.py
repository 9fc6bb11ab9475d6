"""The coarse stage, the fine stage, and the whole model against the released one."""

import gc

import numpy as np
import pytest
import torch
from reference_model import reference_crops, reference_state
from torch.nn import functional

from sharpose.config import load_config
from sharpose.model import PoseOutput, SHaRPose, random_model
from sharpose.model.decode import HeatmapDecoder
from sharpose.model.graphs import Normalise
from sharpose.model.stages import RELEVANCE_DECAY, cut_patches
from sharpose.tokens import fine_patch_index, gather_patches


def explicit_coarse(model, image, rows):
    """Relevance and final tokens with all attention weights written out; `rows` says whose attention is mined."""
    backbone, config = model.backbone, model.config
    half = functional.interpolate(image, scale_factor=0.5, mode="bilinear", align_corners=False)
    regions = functional.conv2d(half, backbone.patch_embed.proj.weight, backbone.patch_embed.proj.bias, stride=16)
    regions = regions.flatten(2).transpose(1, 2) + backbone.pos_embed_list[0]
    batch, heads = len(image), config.heads
    tokens = torch.cat(
        [backbone.quality_token.repeat(batch, 1, 1), backbone.keypoint_tokens.repeat(batch, 1, 1), regions], dim=1
    )
    gathered = torch.zeros(())
    for depth, block in enumerate(backbone.blocks):
        query, key, value = (
            part.unflatten(-1, (heads, -1)).transpose(1, 2)
            for part in block.attn.qkv(block.norm1(tokens)).chunk(3, dim=-1)
        )
        weights = torch.softmax(query @ key.transpose(2, 3) / query.shape[-1] ** 0.5, dim=-1)
        tokens = tokens + block.attn.proj((weights @ value).transpose(1, 2).flatten(2))
        tokens = tokens + block.mlp(block.norm2(tokens))
        if depth >= config.depth // 4:
            gathered = 0.99 * gathered + 0.01 * weights
    relevance = gathered.mean(dim=1)[:, rows, 1 + config.num_keypoints :].sum(dim=1)
    return relevance, backbone.norm(tokens), regions


def test_against_a_plain_reimplementation(nano, image):
    with torch.no_grad():
        coarse = nano.coarse_stage()(image)
        relevance, tokens, regions = explicit_coarse(nano, image, slice(1, 17))
        assert torch.equal(coarse.region_order, relevance.argsort(dim=1, descending=True))
        torch.testing.assert_close(coarse.region_embeddings, regions, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(coarse.region_features, tokens[:, 18:], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(coarse.heatmaps, nano.keypoint_head(tokens[:, 1:18]), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(coarse.quality, nano.backbone.quality_predictor(tokens[:, 0]), atol=1e-5, rtol=1e-4)


def order_for(model, image, monkeypatch, attentions):
    """The region order where the mined blocks' attention weights are `attentions` [heads, T, T] in turn."""
    turn = iter(attentions)
    for block in model.backbone.blocks:
        monkeypatch.setattr(
            block, "forward_mined", lambda x, rows: (x, next(turn)[None, :, rows].expand(len(x), -1, -1, -1))
        )
    with torch.no_grad():
        order = model.coarse_stage()(image[:1]).region_order[0]
    assert next(turn, None) is None
    return order.tolist()


def test_the_last_keypoints_row_is_left_out_of_relevance(nano, image, monkeypatch):
    tokens, first_region = 1 + 17 + 12, 18
    base = torch.rand((12, tokens, tokens), generator=torch.Generator().manual_seed(0))
    before = order_for(nano, image, monkeypatch, [base, base])
    least = before[-1]
    for row, counts in [(0, False), (1, True), (9, True), (16, True), (17, False), (18, False)]:
        changed = base.clone()
        changed[:, row, first_region + least] += 1000
        after = order_for(nano, image, monkeypatch, [changed, changed])
        assert (after[0] == least) is counts, row
        assert (after == before) is not counts, row
    assert nano.coarse_stage().mined_rows == slice(1, 17)


def test_later_blocks_weigh_more_by_the_decay(nano, image, monkeypatch):
    tokens, first_region = 30, 18
    early, late = torch.zeros(12, tokens, tokens), torch.zeros(12, tokens, tokens)
    early[:, 1, first_region + 4] = 1.0
    late[:, 1, first_region + 7] = 0.995  # of a region's weight in the first block, 0.99 is left
    assert order_for(nano, image, monkeypatch, [early, late])[:2] == [7, 4]
    late[:, 1, first_region + 7] = 0.985
    assert order_for(nano, image, monkeypatch, [early, late])[:2] == [4, 7]
    assert RELEVANCE_DECAY == 0.99


def test_relevance_is_the_mean_of_heads_and_the_sum_of_rows(nano, image, monkeypatch):
    tokens, first_region = 30, 18
    one_head, all_heads = torch.zeros(12, tokens, tokens), torch.zeros(12, tokens, tokens)
    one_head[3, 2, first_region + 1] = 11.0  # 11 / 12 in the mean
    all_heads[:, 2:4, first_region + 5] = 0.5  # 1 in the sum over two rows
    both = one_head + all_heads
    assert order_for(nano, image, monkeypatch, [both, both])[:2] == [5, 1]


def test_only_blocks_from_a_quarter_of_the_depth_on_are_mined(nano_config, image, monkeypatch):
    from sharpose.model import random_model

    model = random_model(nano_config.replace({"depth": 8})).model
    mined = []
    for index, block in enumerate(model.backbone.blocks):
        original = block.forward_mined
        monkeypatch.setattr(
            block, "forward_mined", lambda x, rows, index=index, run=original: (mined.append(index), run(x, rows))[1]
        )
    with torch.no_grad():
        model.coarse_stage()(image)
    assert mined == [2, 3, 4, 5, 6, 7]


def test_region_order_holds_every_region_once(nano, image):
    with torch.no_grad():
        order = nano.coarse_stage()(image).region_order
    assert order.dtype == torch.int64
    assert order.sort(dim=1).values.tolist() == [list(range(12))] * 3


def run_fine(model, image, order, coarse):
    patches = cut_patches(image, order, model.config.num_selected, model.config.region_grid[1])
    return model.fine_stage()(patches, order, coarse.region_features, coarse.region_embeddings)


def test_with_all_regions_selected_it_is_a_vision_transformer_on_the_full_crop(nano, image, nano_config):
    model = random_model(nano_config.replace({"alpha": 1.0})).model
    model.load_state_dict(nano.state_dict())
    backbone = model.backbone
    with torch.no_grad():
        coarse = model.coarse_stage()(image)
        found = run_fine(model, image, coarse.region_order, coarse)
        reused = torch.empty(3, 48, 24)
        features = backbone.reuse_block(coarse.region_features)
        for region, patches in enumerate(fine_patch_index((4, 3))):
            reused[:, patches] = features[:, region, None]
        tokens = backbone.patch_embed(image) + backbone.pos_embed_list[1] + reused
        tokens = torch.cat([backbone.keypoint_tokens.expand(3, -1, -1), tokens], dim=1)
        for block in backbone.blocks:
            tokens = block(tokens)
        expected = model.keypoint_head(backbone.norm(tokens)[:, :17])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_the_order_within_selected_and_within_others_does_not_matter(nano, image):
    selected = nano.config.num_selected
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        coarse = nano.coarse_stage()(image)
        shuffled = torch.stack(
            [
                torch.cat(
                    [
                        row[:selected][torch.randperm(selected, generator=generator)],
                        row[selected:][torch.randperm(12 - selected, generator=generator)],
                    ]
                )
                for row in coarse.region_order
            ]
        )
        before, after = (run_fine(nano, image, order, coarse) for order in (coarse.region_order, shuffled))
        swapped = run_fine(nano, image, coarse.region_order.flip(1), coarse)
    assert not torch.equal(shuffled, coarse.region_order)
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)
    assert (swapped - before).abs().max() > 1e-3  # which regions are selected does matter


def test_every_input_is_used(nano, image):
    with torch.no_grad():
        coarse = nano.coarse_stage()(image)
        base = run_fine(nano, image, coarse.region_order, coarse)
        selected, other = coarse.region_order[0, 0], coarse.region_order[0, -1]
        for name, region, matters in [
            ("region_features", selected, True),
            ("region_features", other, False),
            ("region_embeddings", selected, False),
            ("region_embeddings", other, True),
        ]:
            changed = getattr(coarse, name).clone()
            changed[0, region] += 1 * torch.randn(24)
            after = run_fine(nano, image, coarse.region_order, coarse._replace(**{name: changed}))
            assert bool((after[0] != base[0]).any()) is matters, name
            assert torch.equal(after[1:], base[1:])


def crop_of_patch_numbers():
    """uint8 [1, 64, 96, 3]: each pixel holds the number of its 16-pixel patch in the fine grid of 4 x 6."""
    numbers = np.arange(24, dtype=np.uint8).reshape(4, 6)
    return np.repeat(np.repeat(numbers, 16, axis=0), 16, axis=1)[None, :, :, None].repeat(3, axis=3)


def test_patches_of_a_region_row_by_row():
    image = torch.from_numpy(crop_of_patch_numbers()).permute(0, 3, 1, 2)
    patches = cut_patches(image, torch.tensor([[4, 0, 5, 1, 2, 3]]), selected=3, columns=3)
    assert patches.shape == (1, 12, 3, 16, 16)
    assert patches.flatten(2).float().std(dim=-1).max() == 0
    assert patches[0, :, 0, 0, 0].tolist() == [14, 15, 20, 21, 0, 1, 6, 7, 16, 17, 22, 23]


@pytest.mark.parametrize(
    ("crop_size", "selected"), [((256, 192), 24), ((384, 288), 33), ((256, 256), 1), ((32, 32), 1)]
)
def test_torch_and_numpy_cut_the_same_patches(crop_size, selected):
    rng = np.random.default_rng(0)
    regions = crop_size[0] * crop_size[1] // 1024
    crops = rng.integers(0, 256, (3, *crop_size, 3), dtype=np.uint8)
    order = np.stack([rng.permutation(regions) for _ in range(3)]).astype(np.int32)
    gathered = gather_patches(crops, np.arange(3, dtype=np.int32), order, selected)
    cut = cut_patches(
        torch.from_numpy(crops).permute(0, 3, 1, 2), torch.from_numpy(order).long(), selected, crop_size[1] // 32
    )
    expected = cut.permute(0, 1, 3, 4, 2).flatten(2).numpy()
    assert gathered.shape == expected.shape == (3, 4 * selected, 768)
    assert (gathered == expected).all()


BASE = ("sharpose_base_coco_256x192", "sharpose_base_coco_384x288")
RELEASED = [  # and how many of the recorded crops are run; of the first three, some are refined and some not
    ("sharpose_small_coco_256x192", 8),
    *((name, 3) for name in BASE),
    *(pytest.param((name, 8), marks=pytest.mark.soak) for name in BASE),
]


@pytest.fixture(scope="module")
def weights():
    """`reference_state` as tensors; those that models have in common are made once."""
    made = {}

    def make(shapes):
        missing = {key: shape for key, shape in shapes.items() if (key, shape) not in made}
        made.update({(key, shapes[key]): torch.from_numpy(value) for key, value in reference_state(missing).items()})
        return {key: made[key, shape] for key, shape in shapes.items()}

    yield make
    made.clear()


@pytest.fixture(scope="module", params=RELEASED, ids=lambda param: f"{param[0]}-{param[1]}")
def run(request, recorded, weights):
    """Recorded outputs and ours, by mode; one model in memory at a time."""
    name, people = request.param
    config = load_config(name)
    expected = {key: value[:people] if value.ndim else value for key, value in recorded(name).items()}
    with torch.device("meta"):
        model = SHaRPose(config).eval()
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    model.load_state_dict(weights(shapes), strict=True, assign=True)
    model.backbone.fine_index = SHaRPose(config.replace({"width": 12, "depth": 1})).backbone.fine_index
    crops = torch.from_numpy(reference_crops(8, config.crop_size)[:people])
    with torch.inference_mode():
        image = Normalise(config)(crops).permute(0, 3, 1, 2)
        always = model(image, float("inf"))
        mixed = model(image, float(expected["threshold"]))
        never = model(image[:1], float("-inf"))
        assert not never.refined.any()
        assert torch.equal(never.heatmaps, never.coarse.heatmaps)
        torch.testing.assert_close(never.heatmaps, always.coarse.heatmaps[:1], atol=1e-4, rtol=0)
        never = PoseOutput(always.coarse.heatmaps, torch.zeros(people, dtype=torch.bool), always.coarse)  # spares a run
        decode = HeatmapDecoder(config.heatmap_size, config.crop_size)
        keypoints = {
            mode: decode(output.heatmaps).numpy()
            for mode, output in (("coarse", never), ("always", always), ("mixed", mixed))
        }
    outputs = {"always": always, "mixed": mixed, "coarse": never}
    yield config, expected, outputs, keypoints
    del model, outputs, always, mixed, never
    gc.collect()


@pytest.mark.parametrize("mode", ["coarse", "always", "mixed"])
def test_heatmaps_are_the_released_ones(run, mode):
    _, expected, outputs, _ = run
    recorded = expected[f"heatmaps_{mode}"]
    assert recorded.max() - recorded.min() > 3
    assert np.abs(outputs[mode].heatmaps[:, :, ::16, ::6].numpy() - recorded).max() < 1e-4


@pytest.mark.parametrize("mode", ["coarse", "always", "mixed"])
def test_keypoints_are_the_released_ones(run, mode):
    _, expected, _, keypoints = run
    recorded = expected[f"keypoints_{mode}"]
    distance = np.linalg.norm(keypoints[mode][..., :2] - recorded[..., :2], axis=-1)
    assert np.median(distance) < 0.01
    assert np.percentile(distance, 99) < 0.1
    np.testing.assert_allclose(keypoints[mode][..., 2], recorded[..., 2], atol=1e-4)


def test_quality_and_the_gate_are_the_released_ones(run):
    _, expected, outputs, _ = run
    np.testing.assert_allclose(outputs["mixed"].coarse.quality, expected["quality"], atol=1e-5)
    assert outputs["mixed"].refined.tolist() == expected["refined"].tolist()
    assert 0 < expected["refined"].sum() < len(expected["refined"])
    assert outputs["always"].refined.all()


def test_selected_regions_are_the_released_ones(run):
    config, expected, outputs, _ = run
    order = outputs["always"].coarse.region_order.numpy()
    selected = config.num_selected
    assert expected["selected"].shape == (len(order), selected)
    assert np.sort(order[:, :selected]).tolist() == np.sort(expected["selected"]).tolist()
    ranked = np.take_along_axis(expected["relevance"], order, axis=1)
    assert np.diff(ranked, axis=1).max() < 1e-6


def test_a_mixed_batch_is_made_of_both(run):
    _, _, outputs, _ = run
    mixed = outputs["mixed"]
    torch.testing.assert_close(
        mixed.heatmaps[mixed.refined], outputs["always"].heatmaps[mixed.refined], atol=1e-4, rtol=0
    )
    assert torch.equal(mixed.heatmaps[~mixed.refined], mixed.coarse.heatmaps[~mixed.refined])


def test_the_gate_is_strict_and_its_default_is_the_configurations(nano_config, image):
    model = random_model(nano_config, seed=3).model
    with torch.no_grad():
        quality = model(image).coarse.quality
        assert (quality < nano_config.quality_threshold).all()
        assert model(image).refined.all()
        at = float(quality.sort().values[1])
        assert model(image, at).refined.tolist() == [value < at for value in quality.tolist()]
        assert model(image, at).refined.sum() == 1
        never = random_model(nano_config.replace({"quality_threshold": -5.0}), seed=3).model
        assert not never(image).refined.any()


def test_crops_do_not_see_each_other(nano, image):
    with torch.no_grad():
        together = nano(image, float("inf")).heatmaps
        for index in range(len(image)):
            alone = nano(image[index : index + 1], float("inf")).heatmaps
            torch.testing.assert_close(alone[0], together[index], atol=1e-4, rtol=1e-4)
