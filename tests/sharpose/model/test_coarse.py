"""The coarse stage against a plain reimplementation, and what relevance is made of."""

import torch
from torch.nn import functional

from sharpose.model.stages import RELEVANCE_DECAY


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
