import torch

from sharpose.model.backbone import Block


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
