"""Batch norm folded into convolutions, exactly, for both layer orders.

What follows a convolution as ``y = s * x + t`` for each channel can be part of its weights and its bias. That is all
there is to do for ``"norm_relu"`` and for the last batch norm.

The published order has ReLU in between. There ``s`` is split: ReLU lets a positive factor through, so ``|s|`` goes into
the convolution before it, and the sign into the convolution after it. ``t`` cannot become a bias of that convolution,
because its padding is zero and not ``t``, so borders would differ. It becomes the weights of one more input channel
that is one everywhere inside the image: the convolution before makes it, with weights of zero and a bias of one.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dynamicseg.model import SegmentationNetwork

# Runtimes keep channels in blocks; ONNX Runtime only takes its fast convolution for a multiple of this.
CHANNEL_MULTIPLE = 4


@torch.no_grad()
def folded(network: SegmentationNetwork) -> SegmentationNetwork:
    """The same network with its convolutions and ReLUs only, in evaluation mode.

    Responses differ by rounding alone. Hidden layers may have a few channels more, see above.
    """
    *hidden, last_convolution, last_norm = network.layers
    convolutions: list[nn.Conv2d] = []
    scale, shift = None, None  # of what comes from the layer before
    for convolution, second, third in zip(*[iter(hidden)] * 3, strict=True):
        norm = second if isinstance(second, nn.BatchNorm2d) else third
        assert isinstance(norm, nn.BatchNorm2d)
        assert isinstance(convolution, nn.Conv2d)
        this = _after_affine(convolution, scale, shift, convolutions)
        factor, offset = _affine(norm)
        if norm is second:
            convolutions.append(_before_affine(this, factor, offset))
            scale, shift = None, None
        else:
            convolutions.append(_before_affine(this, factor.abs(), torch.zeros_like(offset)))
            scale, shift = torch.sign(factor), offset
    assert isinstance(last_convolution, nn.Conv2d)
    assert isinstance(last_norm, nn.BatchNorm2d)
    last = _after_affine(last_convolution, scale, shift, convolutions)
    convolutions.append(_before_affine(last, *_affine(last_norm)))
    return with_convolutions(network, [convolution.float() for convolution in _in_blocks(convolutions)])


def with_convolutions(network: SegmentationNetwork, convolutions: Sequence[nn.Conv2d]) -> SegmentationNetwork:
    """``network`` with these convolutions and a ReLU between each two of them as its layers."""
    layers: list[nn.Module] = [convolutions[0]]
    for convolution in convolutions[1:]:
        layers += [nn.ReLU(), convolution]
    result = copy.copy(network)
    result._modules = {"layers": nn.Sequential(*layers)}
    return result.eval().requires_grad_(False)


def convolutions_of(network: SegmentationNetwork) -> list[nn.Conv2d]:
    """The convolutions of a folded network, in their order."""
    return [layer for layer in network.layers if isinstance(layer, nn.Conv2d)]


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """What batch norm multiplies and adds in evaluation mode, float64."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    scale = norm.weight.double() / torch.sqrt(variance.double() + norm.eps)
    return scale, norm.bias.double() - mean.double() * scale


def _before_affine(convolution: nn.Conv2d, scale: Tensor, shift: Tensor) -> nn.Conv2d:
    """``scale * convolution(x) + shift``."""
    weight, bias = _numbers(convolution)
    return _like(convolution, weight * scale[:, None, None, None], bias * scale + shift)


def _after_affine(
    convolution: nn.Conv2d, scale: Tensor | None, shift: Tensor | None, before: list[nn.Conv2d]
) -> nn.Conv2d:
    """``convolution(scale * x + shift)``; where it has padding, the last of ``before`` gets a channel of ones."""
    if scale is None or shift is None:
        return convolution
    weight, bias = _numbers(convolution)
    of_shift = (weight * shift[None, :, None, None]).sum(dim=1, keepdim=True)
    weight = weight * scale[None, :, None, None]
    if convolution.kernel_size == (1, 1):
        return _like(convolution, weight, bias + of_shift[:, 0, 0, 0])
    makes_ones, its_bias = _numbers(before[-1])
    makes_ones = torch.cat([makes_ones, torch.zeros_like(makes_ones[:1])])
    before[-1] = _like(before[-1], makes_ones, torch.cat([its_bias, torch.ones_like(its_bias[:1])]))
    return _like(convolution, torch.cat([weight, of_shift], dim=1), bias)


def _in_blocks(convolutions: Sequence[nn.Conv2d]) -> list[nn.Conv2d]:
    """The same with channels of zeros, so that each hidden layer has a multiple of ``CHANNEL_MULTIPLE``."""
    result = list(convolutions)
    for index in range(len(result) - 1):
        weight, bias = _numbers(result[index])
        missing = -len(bias) % CHANNEL_MULTIPLE
        if not missing:
            continue
        zeros = weight.new_zeros(missing, *weight.shape[1:])
        result[index] = _like(result[index], torch.cat([weight, zeros]), torch.cat([bias, bias.new_zeros(missing)]))
        weight, bias = _numbers(result[index + 1])
        zeros = weight.new_zeros(len(weight), missing, *weight.shape[2:])
        result[index + 1] = _like(result[index + 1], torch.cat([weight, zeros], dim=1), bias)
    return result


def _numbers(convolution: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Weights and bias, float64."""
    assert convolution.bias is not None
    return convolution.weight.double(), convolution.bias.double()


def _like(convolution: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """A convolution of the same geometry with these numbers, kept in float64 until all is folded."""
    outputs, inputs = weight.shape[:2]
    result = nn.Conv2d(
        inputs,
        outputs,
        convolution.kernel_size,  # type: ignore[arg-type]
        stride=convolution.stride,  # type: ignore[arg-type]
        padding=convolution.padding,  # type: ignore[arg-type]
        dilation=convolution.dilation,  # type: ignore[arg-type]
        dtype=weight.dtype,
    )
    result.weight.copy_(weight)
    result.bias.copy_(bias)  # type: ignore[union-attr]
    return result
