"""The picture of what the presets make of photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dynamicseg.bench.picture import picture


@pytest.mark.parametrize("with_truth", [False, True])
def test_a_row_for_each_photo_and_a_panel_for_each_segmentation(tmp_path: Path, with_truth: bool) -> None:
    pixels = np.full((24, 48, 3), 250, np.uint8)
    pixels[:, :20] = (20, 60, 200)
    photos = [tmp_path / "a.png", tmp_path / "b.png"]
    for photo in photos:
        Image.fromarray(pixels).save(photo)
    dataset = None
    if with_truth:
        savemat = pytest.importorskip("scipy.io").savemat
        (tmp_path / "val").mkdir()
        truth = np.empty((1, 1), object)
        truth[0, 0] = {"Segmentation": (pixels[..., 0] > 100).astype(np.uint16) + 1}
        for photo in photos:
            savemat(tmp_path / "val" / f"{photo.stem}.mat", {"groundTruth": truth})
        dataset = tmp_path / "val"

    shown = picture(photos, dataset, published_steps=1)
    panels = 4 if with_truth else 3
    assert shown.shape == (2 * (240 + 6), panels * 480 + (panels - 1) * 6, 3)
    assert tuple(shown[120, 100]) == (20, 60, 200)  # the photo comes first
    assert len(np.unique(shown[:240, -480:].reshape(-1, 3), axis=0)) > 2  # the regions are coloured
