from __future__ import annotations

import numpy as np
import pytest
import skimage.data
from scipy.spatial.distance import cdist

import dynamicseg as ds
from dynamicseg.colours import colours
from dynamicseg.io import unit_values
from dynamicseg.silhouette import _silhouette, group_count


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_groups_that_lie_apart_are_counted(count: int) -> None:
    random = np.random.default_rng(count)
    centres = 100 * np.array([[k % 2, k // 2 % 2, k // 4] for k in range(count)])
    groups = random.integers(0, count, (40, 50))
    values = (centres[groups] + random.normal(0, 3, (40, 50, 3))).astype(np.float32)
    assert group_count(values) == count
    assert group_count(values, groups > 0) == max(1, count - 1) if count > 2 else True


def test_few_colours_are_counted_as_they_are() -> None:
    assert group_count(np.zeros((5, 5, 3), np.float32)) == 1
    assert group_count(np.zeros((1, 1, 3), np.float32)) == 1
    two = np.zeros((5, 5, 1), np.float32)
    two[2:] = 50
    assert group_count(two) == 2


def test_the_same_seed_gives_the_same_count() -> None:
    found = colours(unit_values(skimage.data.astronaut()))
    assert group_count(found, seed=3) == group_count(found, seed=3)
    assert 2 <= group_count(found) <= 10


def test_the_score_is_that_of_its_definition() -> None:
    points = np.random.default_rng(0).normal(size=(9, 2))
    groups = np.array([0, 0, 0, 1, 1, 1, 1, 2, 0])  # the one of group 2 is alone
    distances = cdist(points, points)
    scores = []
    for i, group in enumerate(groups):
        same = [distances[i, j] for j in range(9) if groups[j] == group and j != i]
        others = [distances[i, groups == other].mean() for other in {0, 1, 2} - {int(group)}]
        a, b = np.mean(same) if same else 0.0, min(others)
        scores.append((b - a) / max(a, b) if same else 0.0)
    assert _silhouette(distances, groups) == pytest.approx(np.mean(scores))


def test_auto_says_what_it_chose_and_lowers_the_weight() -> None:
    photo = np.ascontiguousarray(skimage.data.chelsea()[::8, ::8])
    chosen = ds.segment(photo, label_floor="auto", max_steps=2)
    assert 2 <= chosen.label_floor <= 10
    assert chosen.metadata()["label_floor"] == chosen.label_floor
    assert chosen.config.label_floor == "auto"
    many = ds.segment(photo, label_floor=1000, max_steps=1, weighting="scf", mu=50.0)
    assert many.history[0]["weight"] == pytest.approx(0.05)
    for wrong in (0, -1, 2.5, "all", True):
        with pytest.raises(ValueError, match="label_floor wants a whole number, at least 1, or auto, not"):
            ds.Segmenter(label_floor=wrong)  # type: ignore[arg-type]
