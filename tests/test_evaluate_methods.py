"""Segmentation methods by name: options, seeds, and that each gives a label map."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dynamicseg.evaluate.methods import DEFAULTS, METHODS, OURS, parse_method, prepare

Photo = Callable[[str], NDArray[np.uint8]]


class TestParseMethod:
    def test_options_over_defaults(self) -> None:
        found = parse_method("felzenszwalb:scale=200:min_size=50")
        assert found.name == "felzenszwalb"
        assert found.options == {"scale": 200, "sigma": 0.8, "min_size": 50}

    def test_ours(self) -> None:
        ours = {"preset": "paper", "max_steps": 9}
        found = parse_method("dynamicseg:max_steps=3:weighting=scf:mu=null", ours)
        assert found.options == {"preset": "paper", "max_steps": 3, "weighting": "scf", "mu": None}
        assert parse_method("slic", ours).options == DEFAULTS["slic"]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("felzenswalb", "did you mean felzenszwalb"),
            ("", "choose from"),
            ("slic:scale=3", "slic has no option 'scale', only n_segments"),
            ("slic:n_segments", "should be OPTION=VALUE"),
            ("slic:n_segments=", "should be OPTION=VALUE"),
            ("slic:n_segments=many", "wants a number"),
            ("slic:n_segments=true", "wants a number"),
            ("dynamicseg:seed=3", "a seed is no option"),
        ],
    )
    def test_refuses(self, text: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            parse_method(text)


class TestPrepare:
    @pytest.mark.parametrize(
        "text", ["felzenszwalb:min_size=5", "slic", "kmeans", "dynamicseg:max_steps=2:preset=paper"]
    )
    def test_gives_labels_and_the_same_again(self, text: str, photo: Photo) -> None:
        image = photo("chelsea")[::8, ::8]
        segment, settings = prepare(parse_method(text), 0)
        labels = segment(image)
        assert labels.shape == image.shape[:2]
        assert labels.dtype.kind in "iu"
        assert len(np.unique(labels)) > 1
        again, same_settings = prepare(parse_method(text), 0)
        np.testing.assert_array_equal(again(image), labels)
        assert same_settings == settings

    @pytest.mark.parametrize("text", METHODS)
    def test_settings_tell_seeds_apart_where_they_matter(self, text: str) -> None:
        different = prepare(parse_method(text), 0)[1] != prepare(parse_method(text), 1)[1]
        assert different == (text in (OURS, "kmeans"))

    @pytest.mark.parametrize("colours", [1, 2, 4])
    def test_kmeans_with_fewer_colours_than_clusters(self, colours: int) -> None:
        image = (np.arange(48, dtype=np.uint8) % colours).reshape(6, 8, 1).repeat(3, axis=2)
        segment, _ = prepare(parse_method("kmeans"), 0)
        assert len(np.unique(segment(image))) == colours

    @pytest.mark.parametrize("text", METHODS)
    def test_grey_images(self, text: str, photo: Photo) -> None:
        options: dict[str, Any] = {"max_steps": 1, "preset": "paper"}
        segment, _ = prepare(parse_method(text, options), 0)
        assert segment(photo("chelsea")[::8, ::8, :1]).shape == (38, 57)

    @pytest.mark.parametrize("text", ["dynamicseg:max_steps=0", "dynamicseg:no_such_option=1"])
    def test_refuses_options_of_ours(self, text: str) -> None:
        with pytest.raises(ValueError, match=f"method '{text}': "):
            prepare(parse_method(text), 0)
