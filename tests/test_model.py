from __future__ import annotations

import torch
from published import PublishedNet
from torch import nn

from dynamicseg.config import configure
from dynamicseg.model import SegmentationNetwork, seeded_network
from dynamicseg.model_description import NetworkOptions
from dynamicseg.ops import relu_batch_norm


def test_the_seeded_network_has_the_numbers_of_the_published_one() -> None:
    for depth in (1, 2, 4):
        network = seeded_network(5, configure("paper", seed=11, depth=depth, channels=7))
        torch.manual_seed(11)
        published = PublishedNet(5, channels=7, convolutions=depth)
        ours, theirs = list(network.parameters()), list(published.parameters())
        # The published network keeps its hidden batch norms apart, so the order of its parameters differs.
        assert sorted(p.shape for p in ours) == sorted(p.shape for p in theirs)
        image = torch.rand(1, 5, 12, 9)
        torch.testing.assert_close(network(image), published(image), rtol=0, atol=0)


def test_seeding_leaves_the_callers_random_numbers_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    seeded_network(3, configure("paper", seed=99, channels=4))
    assert torch.equal(torch.rand(4), expected)


def test_layers_come_in_the_published_order() -> None:
    kinds = [type(layer) for layer in SegmentationNetwork(3, 10, NetworkOptions(width=10, depth=2)).layers]
    block = [nn.Conv2d, nn.ReLU, nn.BatchNorm2d]
    assert kinds == [*block, *block, nn.Conv2d, nn.BatchNorm2d]


def test_any_number_of_bands_and_any_size() -> None:
    assert SegmentationNetwork(17, 6, NetworkOptions(width=6, depth=1))(torch.rand(2, 17, 5, 3)).shape == (2, 6, 5, 3)


def test_fused_layers_are_those_of_the_plain_network() -> None:
    network = seeded_network(3, configure("fast", channels=20)).double()
    image = torch.rand(2, 3, 15, 22, dtype=torch.float64)
    kept = {name: value.clone() for name, value in network.state_dict().items()}
    norm = network.last_norm
    fused = relu_batch_norm(network.before_last_norm(image), norm.weight, norm.bias, relu=False)
    torch.testing.assert_close(dict(network.state_dict()), kept, rtol=0, atol=0)
    torch.testing.assert_close(fused, network(image))
    gradients = [torch.autograd.grad(y.square().sum() + y.exp().sum(), norm.weight) for y in (fused, network(image))]
    torch.testing.assert_close(*gradients)
