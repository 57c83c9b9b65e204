from __future__ import annotations

from typing import Any

import pytest
import torch
from export_models import ARCHITECTURES, a_model
from torch import nn

from dynamicseg.export.folding import CHANNEL_MULTIPLE, convolutions_of, folded


@pytest.mark.parametrize("options", ARCHITECTURES)
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (13, 22), (40, 33)])
def test_the_folded_network_gives_the_same_responses_up_to_its_borders(
    options: dict[str, Any], size: tuple[int, int]
) -> None:
    network = a_model(**options).network
    image = torch.rand(2, 3, *size)
    torch.testing.assert_close(folded(network)(image), network(image), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("order", ["norm_relu", "relu_norm"])
def test_batch_norm_may_weigh_a_channel_with_nothing(order: str) -> None:
    network = a_model(order=order).network
    first = next(module for module in network.modules() if isinstance(module, nn.BatchNorm2d))
    first.weight[2] = 0
    image = torch.rand(1, 3, 11, 12)
    torch.testing.assert_close(folded(network)(image), network(image), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("options", ARCHITECTURES)
def test_only_convolutions_and_relus_are_left_in_full_blocks(options: dict[str, Any]) -> None:
    network = a_model(**options).network
    result = folded(network)
    assert {type(layer) for layer in result.layers} == {nn.Conv2d, nn.ReLU}
    assert all(convolution.out_channels % CHANNEL_MULTIPLE == 0 for convolution in convolutions_of(result)[:-1])
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in network.layers)  # the model itself stays as it was
