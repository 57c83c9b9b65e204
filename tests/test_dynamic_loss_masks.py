"""``ops.dynamic_loss`` with masks and with superpixels."""

from __future__ import annotations

import importlib

import cuda_on_host
import pytest
import torch
from dynamic_loss_cases import (
    Tolerances,
    Way,
    assert_close,
    assert_same_bits,
    blocks,
    each_dtype,
    each_format,
    each_way,
    holes,
    response_map,
    through_autograd,
    true_result,
)

from dynamicseg.ops import _runtime, dynamic_loss
from dynamicseg.weighting import WEIGHTINGS


class TestMask:
    @each_way
    @each_format
    @each_dtype
    def test_an_image_without_a_valid_pixel_has_loss_0(
        self, way: Way, target: torch.device, dtype: torch.dtype, channels_last: bool, tolerances: Tolerances
    ) -> None:
        x = response_map((2, 7, 5, 9), dtype, channels_last)
        mask = torch.ones(2, 5, 9, dtype=torch.bool)
        mask[1] = False
        for weighting in WEIGHTINGS:
            actual = way(x.to(target), mask.to(target), weighting=weighting)
            assert_close(actual, true_result(x, mask, weighting=weighting), tolerances[dtype])
            assert actual.output.loss[1].item() == 0
            assert actual.output.label_counts[1].item() == 0
            assert actual.output.labels[1].eq(-1).all()
            assert actual.grad_x[1].eq(0).all()

    @each_way
    @each_format
    def test_one_valid_pixel(self, way: Way, target: torch.device, channels_last: bool, tolerances: Tolerances) -> None:
        x = response_map((1, 7, 5, 9), channels_last=channels_last)
        mask = torch.zeros(1, 5, 9, dtype=torch.bool)
        mask[0, 3, 4] = True
        actual = way(x.to(target), mask.to(target))
        assert_close(actual, true_result(x, mask), tolerances[x.dtype])
        assert actual.output.continuity.item() == 0
        assert actual.output.label_counts.tolist() == [1]

    @each_way
    @each_format
    def test_all_valid_is_no_mask(self, way: Way, target: torch.device, channels_last: bool) -> None:
        x = response_map((1, 20, 13, 2055), channels_last=channels_last).to(target)
        mask = torch.ones(1, 13, 2055, dtype=torch.bool, device=target)
        assert_same_bits(way(x, mask), way(x))

    @each_way
    @pytest.mark.parametrize("form", ["expanded", "transposed", "every second"])
    def test_masks_need_not_be_contiguous(self, way: Way, device: torch.device, form: str) -> None:
        x = response_map((3, 7, 12, 12)).to(device)
        base = holes((3, 1, 24, 24)).to(device)
        mask = {
            "expanded": base[:1, :12, :1].expand(3, 12, 24)[:, :, :12],
            "transposed": base[:, :12, :12].transpose(1, 2),
            "every second": base[:, ::2, ::2],
        }[form]
        assert not mask.is_contiguous()
        assert_same_bits(way(x, mask), way(x, mask.contiguous()))


class TestSuperpixels:
    @each_way
    @each_format
    def test_one_pixel_each_changes_nothing(
        self, way: Way, target: torch.device, channels_last: bool, tolerances: Tolerances
    ) -> None:
        x = response_map((2, 20, 9, 14), channels_last=channels_last)
        superpixels = torch.arange(9 * 14).view(1, 9, 14).expand(2, -1, -1)
        assert_close(way(x.to(target), superpixels=superpixels.to(target)), true_result(x), tolerances[x.dtype])

    @each_way
    @each_format
    def test_one_superpixel_leaves_one_label(
        self, way: Way, target: torch.device, channels_last: bool, tolerances: Tolerances
    ) -> None:
        x = response_map((2, 20, 9, 14), channels_last=channels_last)
        mask, superpixels = holes(x.shape), torch.zeros(2, 9, 14, dtype=torch.int64)
        actual = way(x.to(target), mask.to(target), superpixels=superpixels.to(target))
        assert actual.output.label_counts.tolist() == [1, 1]
        for image in range(2):
            votes = x[image].argmax(dim=0)[mask[image]].bincount()
            assert actual.output.labels[image][mask[image]].unique().tolist() == [int(votes.argmax())]
        assert actual.output.labels[~mask].eq(-1).all()
        assert_close(actual, true_result(x, mask, superpixels=superpixels), tolerances[x.dtype])

    @each_way
    @each_format
    def test_images_of_a_batch_do_not_share_superpixels(
        self, way: Way, target: torch.device, channels_last: bool
    ) -> None:
        x = response_map((3, 20, 31, 47), channels_last=channels_last).to(target)
        superpixels = blocks(x.shape).to(target)
        together = way(x, superpixels=superpixels).output
        for image in range(3):
            one = slice(image, image + 1)
            alone = way(x[one], superpixels=superpixels[one]).output
            for part, single in zip(together, alone, strict=True):
                assert torch.equal(part[one], single)

    def test_numbers_need_not_be_contiguous_in_memory(self, device: torch.device) -> None:
        x = response_map((3, 7, 12, 12)).to(device)
        superpixels = blocks((3, 7, 24, 24)).to(device)[:, ::2, ::2] // 2
        assert not superpixels[:, :, ::2].is_contiguous()
        assert_same_bits(
            through_autograd(x[..., :6], superpixels=superpixels[:, :, ::2]),
            through_autograd(x[..., :6], superpixels=superpixels[:, :, ::2].contiguous()),
        )

    @pytest.mark.parametrize("backend", ["cpu", "reference"])
    @pytest.mark.parametrize(("numbers", "got"), [([0, -1], "from -1 to 0"), ([0, 2], "from 0 to 2")])
    def test_numbers_out_of_range_are_an_error(
        self, numbers: list[int], got: str, backend: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_runtime, "backend_for", lambda device: backend)
        superpixels = torch.tensor(numbers).view(1, 1, 2)
        with pytest.raises(ValueError, match=got) as raised:
            dynamic_loss(torch.zeros(1, 3, 1, 2), superpixels=superpixels)
        assert "from 0 to less than the number of pixels" in str(raised.value)


class TestSuperpixelCount:
    @each_way
    def test_given_or_found_is_the_same(self, way: Way, target: torch.device) -> None:
        x = response_map((2, 12, 9, 10)).to(target)
        superpixels = blocks(x.shape).to(target)
        found = way(x, superpixels=superpixels)
        for count in (int(superpixels.max()) + 1, 90):
            assert_same_bits(way(x, superpixels=superpixels, superpixel_count=count), found)

    @pytest.mark.parametrize(
        ("count", "message"),
        [
            (0, "superpixel_count is 0: pass 1 to 90"),
            (91, "superpixel_count is 91: pass 1 to 90"),
            (3, "from 0 to 8: number them from 0 to less than superpixel_count, 3"),
        ],
    )
    def test_a_wrong_one_is_an_error(self, count: int, message: str) -> None:
        x = response_map((2, 12, 9, 10))
        with pytest.raises(ValueError, match=message):
            through_autograd(x, superpixels=blocks(x.shape), superpixel_count=count)

    def test_one_without_superpixels_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="superpixel_count is 4, but there are no superpixels"):
            through_autograd(response_map((2, 12, 9, 10)), superpixel_count=4)

    def test_numbers_out_of_range_do_no_harm_where_they_are_not_checked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # As on a GPU, where looking at them would mean waiting.
        x = response_map((1, 12, 9, 10))
        superpixels = blocks(x.shape)
        most = int(superpixels.max())
        wild = superpixels.clone()
        wild[superpixels == 0] = -7
        wild[superpixels == most] = 2**31 - 1
        with cuda_on_host.kernels(monkeypatch):
            expected = through_autograd(x, superpixels=superpixels)
            unchecked = (wild.to(torch.int32), most + 1)
            monkeypatch.setattr(
                importlib.import_module("dynamicseg.ops.dynamic_loss"), "_numbered", lambda *_: unchecked
            )
            assert_same_bits(through_autograd(x, superpixels=superpixels), expected)
