import torch

from sharpose.model.backbone import Backbone, PatchEmbed
from sharpose.tokens import fine_patch_index

RELEASED_KEYS = {
    "keypoint_tokens": (1, 17, 24),
    "quality_token": (1, 1, 24),
    "pos_embed_list.0": (1, 12, 24),
    "pos_embed_list.1": (1, 48, 24),
    "patch_embed.proj.weight": (24, 3, 16, 16),
    "patch_embed.proj.bias": (24,),
    "blocks.1.norm1.weight": (24,),
    "blocks.1.attn.qkv.weight": (72, 24),
    "blocks.1.attn.qkv.bias": (72,),
    "blocks.1.attn.proj.weight": (24, 24),
    "blocks.1.norm2.bias": (24,),
    "blocks.1.mlp.fc1.weight": (96, 24),
    "blocks.1.mlp.fc2.weight": (24, 96),
    "norm.weight": (24,),
    "reuse_block.0.weight": (24,),
    "reuse_block.1.fc1.weight": (96, 24),
    "reuse_block.1.fc2.weight": (24, 96),
    "quality_predictor.norm.weight": (24,),
    "quality_predictor.mlp.0.weight": (24, 24),
    "quality_predictor.mlp.3.weight": (24, 24),
    "quality_predictor.mlp.6.weight": (1, 24),
}


def test_parameters_carry_the_released_names(nano_config):
    state = Backbone(nano_config).state_dict()
    assert {key: tuple(state[key].shape) for key in RELEASED_KEYS} == RELEASED_KEYS
    # nothing besides: 6 for tokens, positions and patches, 12 a block, 2 + 6 + 8 after them
    assert len(state) == 6 + 12 * nano_config.depth + 16


def test_mining_starts_at_a_quarter_of_the_depth(nano_config):
    for depth, first in [(12, 3), (8, 2), (2, 0), (7, 1)]:
        assert Backbone(nano_config.replace({"depth": depth})).depth_mined_from == first


def test_patches_row_by_row():
    embed = PatchEmbed(2)
    with torch.no_grad():
        embed.proj.weight.zero_()
        embed.proj.bias.zero_()
        embed.proj.weight[0, 0, 0, 0] = 1  # a patch's first pixel, red
        embed.proj.weight[1, 2, 15, 15] = 1  # its last, blue
        image = torch.arange(3 * 32 * 48, dtype=torch.float32).reshape(1, 3, 32, 48)
        tokens = embed(image)
    assert tokens.shape == (1, 6, 2)
    assert tokens[0, :, 0].tolist() == [0, 16, 32, 768, 784, 800]
    assert tokens[0, 4, 1] == image[0, 2, 31, 31]


def test_fine_positions_are_ordered_by_region(nano):
    positions = nano.backbone.fine_positions()
    index = fine_patch_index((4, 3))
    assert positions.shape == (12, 4, 24)
    for region in (0, 5, 11):
        for patch in range(4):
            assert torch.equal(positions[region, patch], nano.backbone.pos_embed_list[1][0, index[region, patch]])
