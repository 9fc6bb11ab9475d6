"""The fine stage against plain vision-transformer code, and the order of its patches."""

import numpy as np
import pytest
import torch

from sharpose.model import random_model
from sharpose.model.stages import cut_patches
from sharpose.runtime.gate import gather_patches
from sharpose.tokens import fine_patch_index


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
