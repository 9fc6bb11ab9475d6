"""The transformer and its heads."""

import pytest
import torch

from sharpose.model.backbone import Backbone, Block, HeatmapHead, LayerNorm, PatchEmbed, QualityPredictor
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


def make_block():
    torch.manual_seed(0)
    return Block(width=24, heads=4, mlp_hidden=96).eval()


def explicit_attention(block, x):
    """The textbook's attention weights [B, heads, T, T] and the block's output, without a fused kernel."""
    batch, tokens, width = x.shape
    query, key, value = (
        part.reshape(batch, tokens, 4, width // 4).transpose(1, 2)
        for part in block.attn.qkv(block.norm1(x)).chunk(3, dim=-1)
    )
    weights = torch.softmax(query @ key.transpose(2, 3) / (width // 4) ** 0.5, dim=-1)
    x = x + block.attn.proj((weights @ value).transpose(1, 2).reshape(batch, tokens, width))
    hidden = block.norm2(x) @ block.mlp.fc1.weight.T + block.mlp.fc1.bias
    hidden = 0.5 * hidden * (1 + torch.erf(hidden / 2**0.5))
    return weights, x + hidden @ block.mlp.fc2.weight.T + block.mlp.fc2.bias


def test_fused_attention_equals_explicit_attention():
    block, x = make_block(), 2 * torch.randn(2, 11, 24)
    with torch.no_grad():
        weights, expected = explicit_attention(block, x)
        torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-5)
        _, mined = block.forward_mined(x, slice(1, 5))
    torch.testing.assert_close(mined, weights[:, :, 1:5], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(mined.sum(dim=-1), torch.ones(2, 4, 4))


def test_mining_changes_nothing_in_the_output():
    block, x = make_block(), torch.randn(2, 11, 24)
    with torch.no_grad():
        assert torch.equal(block.forward_mined(x, slice(1, 5))[0], block(x))


def test_layer_norms_have_the_released_epsilon():
    block = make_block()
    assert block.norm1.eps == block.norm2.eps == 1e-5


def test_drop_path_leaves_whole_branches_out_in_training_only():
    block, x = make_block(), torch.randn(64, 5, 24)
    with torch.no_grad():
        expected = block(x)
        block.drop_path = 0.5
        assert torch.equal(block(x), expected)
        block.train()
        branch = block.attn.attend(*block.attn.split_heads(block.norm1(x)))
        taken = block._add(x, branch)
    untouched = (taken == x).all(dim=(1, 2))
    doubled = torch.isclose(taken, x + 2 * branch, atol=1e-6).all(dim=(1, 2))
    assert 10 < int(untouched.sum()) < 54
    assert torch.equal(untouched, ~doubled)


def test_rows_are_mined_in_float32_under_autocast():
    block, x = make_block(), torch.randn(2, 11, 24)
    query, key, _ = block.attn.split_heads(x)
    expected = block.attn.row_attention(query, key, slice(1, 5))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mined = block.attn.row_attention(query, key, slice(1, 5))
    assert mined.dtype == torch.float32
    assert torch.equal(mined, expected)


def gelu(x):
    return 0.5 * x * (1 + torch.erf(x / 2**0.5))


@pytest.mark.parametrize(
    ("changes", "layers"), [({}, 2), ({"head": "mlp"}, 5), ({"head": "mlp", "head_hidden": 30}, 5)]
)
def test_heatmaps_row_by_row(nano_config, changes, layers):
    head = HeatmapHead(nano_config.replace(changes)).eval()
    assert len(head.heatmap_mlp) == layers
    if layers == 5:
        assert head.heatmap_mlp[1].out_features == changes.get("head_hidden", 32 * 24 // 2)
    tokens = torch.randn(2, 17, 24)
    with torch.no_grad():
        maps = head(tokens)
        last = head.heatmap_mlp[-1]
        before = head.heatmap_mlp[:-1](tokens)
        assert maps.shape == (2, 17, 32, 24)
        pixel = before[1, 3] @ last.weight[5 * 24 + 7] + last.bias[5 * 24 + 7]
    assert maps[1, 3, 5, 7].item() == pytest.approx(pixel.item(), abs=1e-5)


def test_quality_has_gelu_after_every_layer_the_last_too(nano_config):
    torch.manual_seed(0)
    predictor = QualityPredictor(nano_config).eval()
    tokens = 3 * torch.randn(40, 24)
    with torch.no_grad():
        x = predictor.norm(tokens)
        for index in (0, 3, 6):
            layer = predictor.mlp[index]
            x = gelu(x @ layer.weight.T + layer.bias)
        found = predictor(tokens)
    assert found.shape == (40,)
    torch.testing.assert_close(found, x[:, 0])
    assert found.min() < 0  # a gelu's negative side, which a relu or sigmoid wouldn't have


def test_quality_with_a_sigmoid(nano_config):
    torch.manual_seed(0)
    plain = QualityPredictor(nano_config).eval()
    squashed = QualityPredictor(nano_config.replace({"quality_activation": "sigmoid"})).eval()
    squashed.load_state_dict(plain.state_dict())
    tokens = torch.randn(5, 24)
    with torch.no_grad():
        torch.testing.assert_close(squashed(tokens), torch.sigmoid(plain.mlp[:-1](plain.norm(tokens)))[:, 0])


def layer_norms():
    """Ours, and PyTorch's with the same parameters."""
    torch.manual_seed(0)
    ours, plain = LayerNorm(64), torch.nn.LayerNorm(64)
    torch.nn.init.normal_(plain.weight)
    torch.nn.init.normal_(plain.bias)
    ours.load_state_dict(plain.state_dict())
    return ours, plain


def test_layer_norm_is_pytorchs_in_one_dtype_and_under_autocast():
    ours, plain = layer_norms()
    x = torch.randn(3, 5, 64)
    assert torch.equal(ours(x), plain(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, expected = ours(x.bfloat16()), plain(x.bfloat16())
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


def test_layer_norm_of_halves_is_float32s_rounded_once():
    ours, plain = layer_norms()
    x = (1000 * torch.randn(3, 5, 64)).half()  # their squares are beyond the largest half
    found = ours(x)
    assert found.dtype == torch.float16
    assert torch.isfinite(found).all()
    assert torch.equal(found, plain(x.float()).half())
