from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_models
import pytest
import tifffile
import torch
from export_models import a_model, photo, photo_folder

from dynamicseg.export import export, graph
from dynamicseg.export.folding import convolutions_of, folded
from dynamicseg.export.images import MAX_IMAGES, images_in, photos_at_hand
from dynamicseg.export.onnx import check, onnx_model
from dynamicseg.export.parity import TooLittleAgreement, agreement, onnx_labels
from dynamicseg.io import write_image
from dynamicseg.model import SegmentationNetwork


def spoiled(network: SegmentationNetwork) -> SegmentationNetwork:
    """A folded network that prefers its first label a little too much."""
    result = folded(network)
    bias = convolutions_of(result)[-1].bias
    assert bias is not None
    with torch.no_grad():
        bias[0] += 0.5
    return result


def test_a_spoiled_export_is_refused_and_leaves_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(graph, "folded", spoiled)
    out, photos = tmp_path / "out", photo_folder(tmp_path / "photos")
    message = (
        r"^the graph in fp32 agrees with the model in \d+\.\d+ % of the pixels, 99.9 % are wanted: no file was written"
    )
    with pytest.raises(TooLittleAgreement, match=message):
        export(a_model(), out / "m.onnx", images=photos)
    assert list(out.iterdir()) == []
    exported = export(a_model(), out / "m.onnx", images=photos, min_agreement=0.5)
    assert exported.agreement is not None
    assert 0.5 < exported.agreement < 0.999
    before = (out / "m.onnx").read_bytes()
    with pytest.raises(TooLittleAgreement):
        export(a_model(), out / "m.onnx", images=photos)
    assert (out / "m.onnx").read_bytes() == before


def test_agreement_counts_pixels_of_all_images() -> None:
    small, large = np.zeros((1, 2, 3), np.uint8), np.zeros((2, 4, 3), np.uint8)

    def zeros(image: Any) -> Any:
        return np.zeros(image.shape[:2], np.int32)

    def first_is_one(image: Any) -> Any:
        labels = zeros(image)
        labels[0, 0] = 1
        return labels

    found = agreement(first_is_one, zeros, [small, large])
    assert (found.share, found.worst) == (8 / 10, 1 / 2)


def test_images_are_spread_over_a_folder_and_cut_to_size(tmp_path: Path) -> None:
    for index in range(MAX_IMAGES + 9):
        write_image(tmp_path / f"{index:03}.png", np.full((8, 9, 3), index, np.uint8))
    found = images_in(tmp_path, 3, None)
    assert len(found.images) == MAX_IMAGES
    assert [image[0, 0, 0] for image in (found.images[0], found.images[-1])] == [0, MAX_IMAGES + 8]
    assert {image.shape for image in images_in(tmp_path, 3, (5, 12)).images} == {(5, 12, 3)}


@pytest.mark.parametrize("bands", [1, 2, 3, 7])
def test_there_are_photos_of_any_bands(bands: int) -> None:
    for image in photos_at_hand(bands, None).images:
        assert image.shape[2] == bands
        assert image.std(axis=(0, 1)).min() > 5


def test_images_that_do_not_fit_are_named(tmp_path: Path) -> None:
    model = a_model()
    with pytest.raises(ValueError, match="nowhere: is no folder"):
        export(model, tmp_path / "m.onnx", images=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: this folder holds no images"):
        export(model, tmp_path / "m.onnx", images=tmp_path / "empty")
    with pytest.raises(ValueError, match=r"a.png: the image has 1 band, the model was trained on 3"):
        export(model, tmp_path / "m.onnx", images=photo_folder(tmp_path / "grey", bands=1))
    (tmp_path / "grey" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ValueError, match=r"a.png: "):
        export(model, tmp_path / "m.onnx", precision="int8", calibration=tmp_path / "grey")
    assert not (tmp_path / "m.onnx").exists()


def test_images_of_many_bands_are_compared_too(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    tifffile.imwrite(tmp_path / "photos" / "a.tif", photo(5).astype(np.uint16) * 257, planarconfig="contig")
    exported = export(a_model(bands=5), tmp_path / "m.onnx", images=tmp_path / "photos")
    assert exported.agreement is not None
    assert exported.agreement > 0.999
    assert exported.metadata["export"]["images"]["count"] == 1


def test_what_onnx_runtime_cannot_run_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    def too_new(*args: Any, **options: Any) -> Any:
        result = onnx_model(*args, **options)
        result.opset_import[0].version = 999
        return result

    monkeypatch.setattr(graph, "onnx_model", too_new)
    with pytest.raises(ValueError, match=r"^ONNX Runtime cannot run the graph .*: no file was written") as caught:
        export(a_model(), tmp_path / "m.onnx", images=photo_folder(tmp_path / "photos"))
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "m.onnx").exists()


def test_a_failure_of_onnx_runtime_in_a_run_is_one_line() -> None:
    labels = onnx_labels(onnx_models.model(size=(9, 11)).SerializeToString())
    with pytest.raises(ValueError, match=r"^ONNX Runtime cannot run the graph") as caught:
        labels(photo())
    assert len(str(caught.value).splitlines()) == 1


def test_a_graph_that_breaks_the_rules_of_onnx_is_one_line() -> None:
    broken = onnx_models.model()
    broken.graph.node[0].ClearField("op_type")
    with pytest.raises(ValueError, match=r"^the graph that was made breaks the rules of ONNX") as caught:
        check(broken)
    other_type = onnx_models.model()
    other_type.graph.output[0].type.tensor_type.elem_type = 1
    with pytest.raises(ValueError, match=r"^the graph that was made breaks the rules of ONNX"):
        check(other_type)
    assert len(str(caught.value).splitlines()) == 1
