from __future__ import annotations

import pytest
from pydantic import ValidationError

from dynamicseg.config import SegmenterConfig, configure


def test_paper_is_the_published_network_and_schedule() -> None:
    config = configure("paper")
    assert (config.channels, config.depth, config.max_steps, config.stop_labels) == (100, 2, 1000, 3)
    assert (config.learning_rate, config.momentum, config.precision) == (0.1, 0.9, "float32")
    assert (config.weighting, config.mu) == ("fsf", 15.0)


@pytest.mark.parametrize(("weighting", "mu"), [("fsf", 15.0), ("scf", 50.0), ("fixed", 1.0)])
def test_each_weighting_has_its_published_constant(weighting: str, mu: float) -> None:
    assert configure("paper", weighting=weighting).mu == mu


def test_training_goes_on_until_the_labels_asked_for_are_left() -> None:
    assert configure("paper").stop_labels == configure("paper", max_labels=2).stop_labels == 3
    assert configure("paper", min_labels=10).stop_labels == 10
    assert configure("paper", min_labels=500).stop_labels == 99  # an untrained network may have all 100
    assert configure("paper", min_labels=10, stop_labels=5).stop_labels == 5
    assert configure("fast", min_labels=10).stop_labels == configure("fast").stop_labels  # they are not its labels


def test_none_leaves_a_field_to_the_preset() -> None:
    assert configure("paper", mu=None, max_steps=None) == configure("paper")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mu": 0.0}, "mu wants more than 0, not 0.0"),
        ({"mu": float("nan")}, "mu wants"),
        ({"mu": float("inf")}, "mu wants"),
        ({"max_steps": 0}, "max_steps wants at least 1, not 0"),
        ({"max_steps": 2.5}, "max_steps wants a whole number, not 2.5"),
        ({"max_steps": True}, "max_steps wants a whole number, not True"),
        ({"min_labels": -1}, "min_labels wants at least 1, not -1"),
        ({"stop_labels": 0}, "stop_labels wants at least 1, not 0"),
        ({"max_labels": 0}, "max_labels wants at least 1, not 0"),
        ({"min_labels": 3, "max_labels": 2}, r"min_labels wants at most max_labels (2), not 3"),
        ({"min_labels": 3, "channels": "8"}, "channels wants a whole number, not '8'"),
        ({"regions": "consensus"}, "regions 'consensus' are put together from superpixels: choose a superpixel_scale"),
        ({"weighting": "fcs"}, "weighting wants 'fsf', 'scf' or 'fixed', not 'fcs'"),
        ({"device": "gpu"}, "device wants auto, cpu, cuda or cuda:N, not 'gpu'"),
        ({"precision": "float16"}, "precision wants 'auto', 'float32' or 'bfloat16', not 'float16'"),
        ({"time_budget": 0.0}, "time_budget wants more than 0, not 0.0"),
        ({"time_budget": float("inf")}, "time_budget wants"),
        ({"time_budget": "soon"}, "time_budget wants a valid number, not 'soon'"),
        ({"max_side": 1}, "max_side wants at least 2, not 1"),
        ({"seed": -1}, "seed wants at least 0, not -1"),
    ],
)
def test_a_wrong_value_is_named_in_one_line(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError) as caught:
        configure("paper", **options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not isinstance(caught.value, ValidationError)


def test_all_wrong_values_are_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"max_steps wants .*; seed wants"):
        configure("paper", max_steps=0, seed=-1)


def test_an_unknown_preset_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="choose fast, quality, pretrained or paper; did you mean paper"):
        configure("papre")


def test_an_unknown_option_is_a_type_error() -> None:
    with pytest.raises(TypeError, match=r"'steps'.*max_steps"):
        configure("paper", steps=3)


def test_the_configuration_survives_json_and_cannot_be_changed() -> None:
    config = configure("paper", weighting="scf", seed=7)
    assert SegmenterConfig.model_validate_json(config.model_dump_json()) == config
    with pytest.raises(ValidationError):
        config.seed = 1


def test_the_published_loss_is_only_where_its_numbers_are() -> None:
    assert configure("paper").loss == "published"
    assert configure("paper", precision="bfloat16").loss == "fused"
    assert configure("paper", precision="auto").loss == "fused"  # whatever the processor has, the user wants speed
    assert configure("paper", superpixel_scale=40.0).loss == "fused"
    assert configure("fast").loss == "fused"
    with pytest.raises(ValueError, match="knows no superpixels"):
        configure("fast", loss="published")


def test_area_exponent_is_refused_where_the_result_is_the_labels_of_the_network() -> None:
    assert configure("quality", area_exponent=1.0).area_exponent == 1.0
    with pytest.raises(ValueError, match="area_exponent is for regions by consensus"):
        configure("paper", area_exponent=1.0)


def test_quality_is_fast_from_finer_superpixels() -> None:
    fast, quality = configure("fast").model_dump(), configure("quality").model_dump()
    assert {name for name in fast if fast[name] != quality[name]} == {
        "preset",
        "superpixel_scale",
        "superpixel_min_size",
    }
    assert quality["superpixel_scale"] < fast["superpixel_scale"]
