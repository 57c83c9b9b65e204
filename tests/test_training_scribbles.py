"""Strokes in some images of a training: read, checked, and the order of the labels in the end."""

from __future__ import annotations

import numpy as np
import pytest

from dynamicseg.training.config import configure_training
from dynamicseg.training.crops import random_batch
from dynamicseg.training.images import ImageSet
from dynamicseg.training.scribbles import order_of_labels, read_strokes, spread

IMAGES = [np.random.default_rng(k).random((40, 50, 3)) for k in range(3)]


def drawn(label: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    strokes = np.full((40, 50), -1)
    strokes[:, ::2] = label
    return strokes


def test_labels_that_were_drawn_keep_their_numbers() -> None:
    areas = np.array([5, 0, 90, 7, 0, 40])
    assert order_of_labels(areas, {}).tolist() == [2, 5, 3, 0]
    assert order_of_labels(areas, {0: drawn(0), 2: drawn(3)}).tolist() == [0, 2, 5, 3]
    # Drawn, but found in no image, and more numbers before it than there are labels: labels without pixels fill them.
    assert order_of_labels(np.array([9, 0, 0, 0, 0]), {0: drawn(4)}).tolist() == [0, 1, 2, 3, 4]
    assert order_of_labels(areas, {0: drawn(1)}).tolist() == [2, 1, 5, 3, 0]


def test_strokes_are_cut_with_their_image() -> None:
    images = ImageSet(IMAGES)
    images.strokes = read_strokes(images, [None, drawn(3), None], 5)
    assert list(images.strokes) == [1]
    for stride in (1, 2):
        config = configure_training(n_labels=5, crop_size=16, stride=stride, superpixel_scale=0.0)
        batch = random_batch(images, [0, 1, 2], config, (0,), size=6)
        assert batch.scribbles is not None
        assert batch.scribbles.shape == (6, 16 // stride, 16 // stride)
        found = [np.unique(one).tolist() for one in batch.scribbles.numpy()]
        assert sorted(found) == [[-1]] * 4 + ([[-1, 3]] if stride == 1 else [[3]]) * 2
    images.strokes = {}
    assert random_batch(images, [0, 1, 2], config, (0,), size=6).scribbles is None


def test_labels_beyond_the_model_and_lists_of_another_length_are_refused() -> None:
    images = ImageSet(IMAGES)
    with pytest.raises(ValueError, match="scribbles of image 1: draws label 5, but a model of 5 labels has 0 to 4"):
        read_strokes(images, [None, drawn(5), None], 5)
    with pytest.raises(ValueError, match="scribbles: 1 for 3 images"):
        read_strokes(images, [drawn(1)], 5)
    with pytest.raises(ValueError, match="is 50x40 pixels"):
        read_strokes(ImageSet([IMAGES[0][:-1]]), [drawn(1)], 5)


def test_strokes_spread_over_their_superpixels() -> None:
    superpixels = np.array([[0, 0, 1, 1, 2, 2, 2]])
    scribbles = np.array([[-1, 4, -1, -1, 1, 3, 3]])
    assert spread(scribbles, superpixels).tolist() == [[4, 4, -1, -1, 1, 3, 3]]
    assert spread(np.array([[-1, -1, -1, -1, -1, 3, -1]]), superpixels).tolist() == [[-1, -1, -1, -1, 3, 3, 3]]
    nothing = np.full((1, 7), -1)
    assert spread(nothing, superpixels) is nothing
