import pytest
import torch

from sharpose.model.backbone import HeatmapHead, QualityPredictor


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
