"""Int8 models: weights and inputs of linear layers in 8 bits, calibrated on pictures of people.

Exported, quantise and dequantise nodes stand before the products (QDQ), which ONNX Runtime, OpenVINO and TensorRT
compute in integers: inputs symmetric with one scale a layer, weights symmetric with one a channel. Weights have 7 bits,
because sums of two products of 8 bits overflow on processors without VNNI.

In float32 stay what costs little or can't stand it: the patch embedding of the coarse stage, products of attention and
so relevance, softmax, LayerNorm, GELU, residual sums, the quality head and decoding. docs/performance.md has what each
kind of layer does to poses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from sharpose.engines.stages import fine_inputs
from sharpose.export.folding import FoldedBlock, folded_model
from sharpose.export.onnx import Translations
from sharpose.model import SHaRPose
from sharpose.model.backbone import MLP, LayerNorm
from sharpose.model.graphs import TorchStages

_INPUT_TOP, _WEIGHT_TOP = 127, 63  # largest whole numbers: of 8 bits, and of 7
_BATCH = 8  # crops
_ROWS = 16  # tokens that are kept of what a layer is given in a batch
_CLIPS = np.linspace(0.3, 1.0, 29)  # shares of the largest value that are tried as the largest representable one
_VALUES = 16384  # that they are tried on
_SMALLEST = 1e-3  # of a tensor's largest channel: smaller ones are smoothed as if they were as large


def int8_model(model: SHaRPose, crops: npt.NDArray[np.uint8], chosen: Callable[[str], bool] | None = None) -> SHaRPose:
    """A quantised copy of a float32 model.

    Args:
        model: The model.
        crops: People, uint8 [n, H, W, 3], RGB, that the ranges of inputs are taken from.
        chosen: Says by its name which linear layer is quantised; if None, all but those of the quality head.
    """
    quantised = folded_model(model)
    seen = _observe(quantised, crops)
    for linear, before in _smoothable(quantised):
        _smooth(linear, before, seen[linear])
    for name, linear in _linear_layers(quantised):
        if not (chosen(name) if chosen else "quality_predictor" not in name):  # a gate compares its output
            continue
        parent, _, place = name.rpartition(".")
        # A sequence takes its parts by number, which is their name.
        setattr(quantised.get_submodule(parent), place, QuantisedLinear(linear, seen[linear].clip()))
    return quantised


class QuantisedLinear(nn.Module):
    """A linear layer in 8 bits.

    Attributes:
        weight: int8 [in, out].
        weight_scale: float32 [out].
        input_scale: Of the input.
    """

    weight: Tensor
    weight_scale: Tensor

    def __init__(self, linear: nn.Linear, largest: float) -> None:
        super().__init__()
        weight = linear.weight.detach().T.contiguous()
        scale = (weight.abs().amax(dim=0) / _WEIGHT_TOP).clamp(min=torch.finfo(torch.float32).tiny)
        self.register_buffer("weight", (weight / scale).round().to(torch.int8))
        self.register_buffer("weight_scale", scale)
        self.input_scale = largest / _INPUT_TOP
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        product: Tensor = _through_int8(x, self.input_scale) @ _from_int8(self.weight, self.weight_scale)
        return product if self.bias is None else product + self.bias


@torch.library.custom_op("sharpose::through_int8", mutates_args=())
def _through_int8(x: Tensor, scale: float) -> Tensor:
    return (x / scale).round().clamp(-_INPUT_TOP - 1, _INPUT_TOP) * scale


@torch.library.custom_op("sharpose::from_int8", mutates_args=())
def _from_int8(weight: Tensor, scale: Tensor) -> Tensor:
    return weight.float() * scale


@_through_int8.register_fake
def _(x: Tensor, scale: float) -> Tensor:
    return torch.empty_like(x)


@_from_int8.register_fake
def _(weight: Tensor, scale: Tensor) -> Tensor:
    return torch.empty_like(weight, dtype=torch.float32)


def translations() -> Translations:
    """The ONNX of a `QuantisedLinear`."""
    from onnxscript import opset18

    op: Any = opset18  # its operators are typed as for constants

    # onnxscript reads the annotations.
    def through_int8(x, scale: float):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        parts = (np.array(scale, np.float32), np.array(0, np.int8))
        constants = [op.Constant(value=numpy_helper.from_array(part)) for part in parts]
        return op.DequantizeLinear(op.QuantizeLinear(x, *constants), *constants)

    def from_int8(weight, scale):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        return op.DequantizeLinear(weight, scale, axis=1)

    operators = torch.ops.sharpose
    return {operators.through_int8.default: through_int8, operators.from_int8.default: from_int8}


def _linear_layers(model: SHaRPose) -> list[tuple[str, nn.Linear]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]


class _Seen:
    """What a layer was given: the largest magnitude by channel, and some tokens."""

    def __init__(self) -> None:
        self.largest = torch.zeros(())
        self._kept: list[Tensor] = []
        self._choose = torch.Generator().manual_seed(0)

    def add(self, x: Tensor) -> None:
        tokens = x.detach().flatten(0, -2)
        self.largest = torch.maximum(self.largest, tokens.abs().amax(dim=0))
        self._kept.append(tokens[torch.randint(len(tokens), (_ROWS,), generator=self._choose)])

    def divide(self, scale: Tensor) -> None:
        """As if the channels had been divided by a scale each."""
        self.largest = self.largest / scale
        self._kept = [tokens / scale for tokens in self._kept]

    def clip(self) -> float:
        """The largest value that 8 bits should represent: that with the least squared error."""
        largest = max(float(self.largest.max()), float(torch.finfo(torch.float32).tiny) * _INPUT_TOP)
        values = torch.cat(self._kept).flatten()
        values = values[torch.randint(len(values), (min(len(values), _VALUES),), generator=self._choose)]
        errors = []
        for share in _CLIPS:
            rounded = _through_int8(values, float(share) * largest / _INPUT_TOP)
            errors.append(float((rounded - values).square().mean()))
        return largest * float(_CLIPS[int(np.argmin(errors))])


def _observe(model: SHaRPose, crops: npt.NDArray[np.uint8]) -> dict[nn.Linear, _Seen]:
    """What the linear layers are given in both stages."""
    layers = [linear for _, linear in _linear_layers(model)]
    seen = {linear: _Seen() for linear in layers}

    def keep(linear: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        assert isinstance(linear, nn.Linear)
        seen[linear].add(arguments[0])

    hooks = [linear.register_forward_pre_hook(keep) for linear in layers]
    stages = TorchStages(model)
    for first in range(0, len(crops), _BATCH):
        batch = np.ascontiguousarray(crops[first : first + _BATCH])
        stages.fine(fine_inputs(batch, stages.coarse(batch), model.config))
    for hook in hooks:
        hook.remove()
    return seen


def _smoothable(model: SHaRPose) -> Iterator[tuple[nn.Linear, list[Tensor]]]:
    """Linear layers whose inputs' channels may be scaled, with what gives them, channels first: it is to be divided."""
    backbone, head = model.backbone, model.keypoint_head.heatmap_mlp
    reuse_norm, reuse = backbone.reuse_block
    assert isinstance(reuse, MLP)
    pairs: list[tuple[nn.Module, nn.Module]] = [(head[place], head[place + 1]) for place in range(0, len(head), 3)]
    pairs.append((reuse_norm, reuse.fc1))
    for block in backbone.blocks:
        assert isinstance(block, FoldedBlock)
        pairs += [(block.norm1, block.attn.qkv), (block.norm2, block.mlp.fc1)]
        yield block.attn.proj, [block.attn.qkv.weight.data[-block.attn.proj.in_features :]]  # the values'
    for norm, linear in pairs:
        assert isinstance(norm, LayerNorm)
        assert isinstance(linear, nn.Linear)
        yield linear, [norm.weight.data, norm.bias.data]


def _smooth(linear: nn.Linear, before: list[Tensor], seen: _Seen) -> None:
    """Share the spread of channels between inputs and weights, as SmoothQuant does with an exponent of one half."""
    inputs, weights = (
        largest.clamp(min=max(float(largest.max()) * _SMALLEST, 1e-12))
        for largest in (seen.largest, linear.weight.detach().abs().amax(dim=0))
    )
    scale = (inputs / weights).sqrt()
    scale = scale / scale.log().mean().exp()
    linear.weight.data *= scale
    for tensor in before:
        tensor /= scale.view(-1, *[1] * (tensor.dim() - 1))
    seen.divide(scale)
