"""``dynamicseg::dynamic_loss``: the loss of section "the mathematics" in the docs, fused.

Fake and autograd registrations are in Python, so that the native core needs no torch to build and serves every version.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynamicseg import _native, reference
from dynamicseg.ops import _runtime
from dynamicseg.ops._library import operator
from dynamicseg.ops._loss_arguments import LOSS_SCHEMA, LossArguments, check_label_maps, checked_arguments
from dynamicseg.ops._maps import DTYPES, dense_format, empty_result, result_memory, statistic_dtype
from dynamicseg.reference import DynamicLossOutput
from dynamicseg.terms import SCRIBBLE_WEIGHT, Continuity
from dynamicseg.weighting import Weighting


def dynamic_loss(
    x: Tensor,
    *,
    weighting: Weighting = "fsf",
    mu: float | None = None,
    mask: Tensor | None = None,
    superpixels: Tensor | None = None,
    superpixel_count: int | None = None,
    continuity: Continuity = "l1",
    diagonals: bool = False,
    label_floor: int = 1,
    scribbles: Tensor | None = None,
    guide: Tensor | None = None,
    guide_weight: float | Tensor = 1.0,
) -> DynamicLossOutput:
    """The dynamically weighted loss of each image of a batch; the same as ``reference.dynamic_loss``, fused.

    Nothing of the size of ``x`` is written, but the gradient when it is asked for. Maps whose rows or whose channels
    are dense are read where they are, crops included; any other is copied first. The same input gives the same bits.

    Args:
        x: ``[B, C, H, W]`` response map: float32, float64, bfloat16 or, on a GPU, float16; contiguous or channels last.
            C >= 1.
        weighting: ``"fsf"``, ``"scf"`` or ``"fixed"``, see ``weighting.Weighting``.
        mu: constant of the weighting, > 0; by default the published one: 15, 50, 1.
        mask: ``[B, H, W]`` bool, true where there is data; default: everywhere.
        superpixels: ``[B, H, W]`` int64, numbers of superpixels from 0, with few gaps: the label of each pixel is then
            the most frequent one in its superpixel in place of its own.
        superpixel_count: a number that is above those of all superpixels, 1 .. H * W. By default it is found, for
            which each call on a GPU must wait for the GPU; where it is given, numbers there are not checked, and one
            that is out of range counts as the nearest that is in it.
        continuity: ``"l1"`` or ``"huber"``, see ``terms.Continuity``.
        diagonals: whether the differences of diagonal neighbours count as well: two more means in the continuity.
        label_floor: the weight is that of this many labels at least, >= 1.
        scribbles: ``[B, H, W]`` int64, labels 0 .. C - 1 drawn by hand, -1 where nothing was drawn. Similarity is then
            that of the pixels without a scribble; half of the mean cross-entropy with the scribbled labels is added.
            On a GPU numbers are not checked, and one that is out of range is none.
        guide: ``[B, H, W]`` int64, labels 0 .. C - 1 of another model, -1 where it has none: ``guide_weight`` times the
            mean cross-entropy with them is added. Numbers on a GPU as in scribbles.
        guide_weight: finite and >= 0: a number, or a floating tensor ``[B]`` or ``[]`` on the device of ``x``, which is
            read when the kernel runs, so that it can change between runs of a CUDA graph; not checked there. No
            gradient goes to it.

    Returns:
        ``DynamicLossOutput``: ``loss`` (the only one with a gradient), ``similarity``, ``continuity``, ``weight``,
        ``label_counts``, ``scribble``, ``guide``, all ``[B]``, and ``labels`` ``[B, H, W]``.

    Raises:
        TypeError: an argument is not of the right type or dtype.
        ValueError: the shape, weighting, mu, another option, a superpixel's number, their count, a label or a weight is
            wrong, or a map is on another device.
    """
    arguments = checked_arguments(
        "x",
        x,
        mask=mask,
        superpixels=superpixels,
        superpixel_count=superpixel_count,
        scribbles=scribbles,
        guide=guide,
        guide_weight=guide_weight,
        weighting=weighting,
        mu=mu,
        continuity=continuity,
        diagonals=diagonals,
        label_floor=label_floor,
    )
    if _runtime.backend_for(x.device) == "reference":
        return reference.dynamic_loss(x, **reference_options(x, arguments))
    return split_outputs(_dynamic_loss(x, *arguments))[0]


def dynamic_loss_and_grad(
    x: Tensor,
    *,
    weighting: Weighting = "fsf",
    mu: float | None = None,
    mask: Tensor | None = None,
    superpixels: Tensor | None = None,
    superpixel_count: int | None = None,
    continuity: Continuity = "l1",
    diagonals: bool = False,
    label_floor: int = 1,
    scribbles: Tensor | None = None,
    guide: Tensor | None = None,
    guide_weight: float | Tensor = 1.0,
) -> tuple[DynamicLossOutput, Tensor]:
    """``dynamic_loss`` and the gradient of its mean over the batch, in one native call, outside autograd.

    For a training loop of one's own: ``output, grad_x = dynamic_loss_and_grad(x); x.backward(grad_x)``.
    Arguments and errors as in ``dynamic_loss``. The gradient is ``[B, C, H, W]``, in dtype and memory format of ``x``.
    """
    arguments = checked_arguments(
        "x",
        x,
        mask=mask,
        superpixels=superpixels,
        superpixel_count=superpixel_count,
        scribbles=scribbles,
        guide=guide,
        guide_weight=guide_weight,
        weighting=weighting,
        mu=mu,
        continuity=continuity,
        diagonals=diagonals,
        label_floor=label_floor,
    )
    x = x.detach()
    if _runtime.backend_for(x.device) == "reference":
        with torch.enable_grad():
            leaf = x.requires_grad_()
            output = reference.dynamic_loss(leaf, **reference_options(x, arguments))
            (grad_x,) = torch.autograd.grad(output.loss.sum() / max(len(output.loss), 1), leaf)
        return output._replace(loss=output.loss.detach()), grad_x
    output, (grad_x,) = split_outputs(_dynamic_loss_and_grad(x, *arguments))
    return output, grad_x


def reference_options(x: Tensor, arguments: LossArguments) -> dict[str, Any]:
    """The arguments as ``reference.dynamic_loss`` takes them, after the checks that the kernels' way has."""
    check_label_maps(x, arguments.scribbles, arguments.guide, arguments.guide_weight)
    if arguments.superpixels is not None and arguments.superpixels.numel() > 0:
        _checked_superpixel_count(arguments.superpixels, arguments.superpixel_count)
    options = arguments._asdict()
    del options["superpixel_count"]
    if arguments.guide_weight is None:
        del options["guide_weight"]
    return options


def split_outputs(results: tuple[Tensor, ...]) -> tuple[DynamicLossOutput, tuple[Tensor, ...]]:
    """What an operator returns: the output of the loss, and what else there is."""
    count = len(DynamicLossOutput._fields)
    return DynamicLossOutput(*results[:count]), results[count:]


# ---- adapter: tensor -> pointers -------------------------------------------------------------------------------------


class _Outputs(NamedTuple):
    """What the forward pass writes: ``DynamicLossOutput``, and ``logsumexp`` ``[B, H, W]`` for the backward pass.

    The names are those of the kernel interface, in the order of ``DynamicLossOutput``.
    """

    loss: Tensor
    similarity: Tensor
    continuity: Tensor
    weight: Tensor
    label_counts: Tensor
    labels: Tensor
    scribble_cross_entropy: Tensor
    guide_cross_entropy: Tensor
    logsumexp: Tensor


def empty_outputs(x: Tensor) -> _Outputs:
    """For what the forward pass writes of a map ``x``."""
    batch, _, height, width = x.shape
    statistic = statistic_dtype(x)
    return _Outputs(
        loss=x.new_empty(batch, dtype=statistic),
        similarity=x.new_empty(batch, dtype=statistic),
        continuity=x.new_empty(batch, dtype=statistic),
        weight=x.new_empty(batch, dtype=statistic),
        label_counts=x.new_empty(batch, dtype=torch.int64),
        labels=x.new_empty((batch, height, width), dtype=torch.int64),
        scribble_cross_entropy=x.new_empty(batch, dtype=statistic),
        guide_cross_entropy=x.new_empty(batch, dtype=statistic),
        logsumexp=x.new_empty((batch, height, width), dtype=statistic),
    )


def _numbered(superpixels: Tensor | None, superpixel_count: int | None) -> tuple[Tensor | None, int]:
    """Superpixels as the kernels read them, and how many there are."""
    if superpixels is None or superpixels.numel() == 0:
        return None, 0
    superpixel_count = _checked_superpixel_count(superpixels, superpixel_count)
    return superpixels.to(torch.int32).contiguous(), superpixel_count


def _checked_superpixel_count(superpixels: Tensor, superpixel_count: int | None) -> int:
    """A number above those of all superpixels.

    Raises:
        ValueError: one of them is out of range; on a GPU they are looked at only where there is no count.
    """
    if superpixel_count is None or superpixels.device.type == "cpu":
        lowest, highest = _range(superpixels)
        most = superpixels[0].numel() if superpixel_count is None else superpixel_count
        if lowest < 0 or highest >= most:
            limit = "the number of pixels" if superpixel_count is None else f"superpixel_count, {superpixel_count}"
            raise ValueError(
                f"superpixels are numbered from {lowest} to {highest}: number them from 0 to less than {limit}, "
                "for example with skimage.segmentation.relabel_sequential"
            )
        superpixel_count = highest + 1
    return superpixel_count


def _range(superpixels: Tensor) -> tuple[int, int]:
    """The lowest and the highest number."""
    if superpixels.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise ValueError("superpixel_count is not given: pass it, for it cannot be found in a CUDA graph")
    lowest, highest = superpixels.aminmax()
    return int(lowest), int(highest)


def run_loss(
    kernel: str,
    x: Tensor,
    arguments: LossArguments,
    arrays: dict[str, Tensor],
    with_norm: Callable[[_native.DynamicLossParams], _native.BatchNormDynamicLossParams] | None = None,
) -> None:
    """Runs a kernel on the tensors' memory; the names of ``arrays`` are those of the kernel interface.

    ``with_norm`` adds the parameters of a batch norm to those of the loss, for a kernel that wants them.
    """
    check_label_maps(x, arguments.scribbles, arguments.guide, arguments.guide_weight)
    memory_format = dense_format(x)
    if memory_format is None:
        x, memory_format = x.contiguous(), "contiguous"
    superpixels, superpixel_count = _numbered(arguments.superpixels, arguments.superpixel_count)
    read = {
        "mask": arguments.mask,
        "superpixels": superpixels,
        "scribbles": arguments.scribbles,
        "guide": arguments.guide,
        "guide_weight": arguments.guide_weight,
    }
    dense = {name: array.contiguous() for name, array in read.items() if array is not None}
    addresses = dict.fromkeys((*read, *_Outputs._fields, "grad_x", "grad_loss"), 0) | {
        name: array.data_ptr() for name, array in (dense | arrays).items()
    }
    params = _native.DynamicLossParams(
        x=x.data_ptr(),
        dtype=DTYPES[x.dtype],
        format=memory_format,
        shape=tuple(x.shape),
        strides=x.stride(),
        superpixel_count=superpixel_count,
        scribble_weight=SCRIBBLE_WEIGHT,
        weighting=arguments.weighting,
        mu=arguments.mu,
        label_floor=arguments.label_floor,
        continuity_kind=arguments.continuity,
        diagonals=arguments.diagonals,
        grad_strides=arrays["grad_x"].stride() if "grad_x" in arrays else (0, 0, 0, 0),
        **addresses,
    )
    _runtime.run_kernel(kernel, params if with_norm is None else with_norm(params), x.device)


# ---- torch.library ---------------------------------------------------------------------------------------------------


def returned(tensors: int) -> str:
    """The end of a schema."""
    return f"({', '.join(['Tensor'] * tensors)})"


def _fake_dynamic_loss(x: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return (*empty_outputs(x),)


def _fake_dynamic_loss_and_grad(x: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return (*empty_outputs(x)[:-1], empty_result(x))


def _fake_dynamic_loss_backward(_: Tensor, x: Tensor, *__: Any) -> Tensor:
    return empty_result(x)


@operator(
    "dynamic_loss_backward",
    "(Tensor grad_loss, Tensor x, Tensor? mask, Tensor? scribbles, Tensor? guide, Tensor? guide_weight, "
    "Tensor labels, Tensor logsumexp, Tensor weight, str continuity, bool diagonals) -> Tensor",
    fake=_fake_dynamic_loss_backward,
)
def _dynamic_loss_backward(
    grad_loss: Tensor,
    x: Tensor,
    mask: Tensor | None,
    scribbles: Tensor | None,
    guide: Tensor | None,
    guide_weight: Tensor | None,
    labels: Tensor,
    logsumexp: Tensor,
    weight: Tensor,
    continuity: str,
    diagonals: bool,
) -> Tensor:
    grad_x = result_memory(x)
    arguments = LossArguments(
        mask=mask,
        superpixels=None,
        superpixel_count=None,
        scribbles=scribbles,
        guide=guide,
        guide_weight=guide_weight,
        weighting="fixed",  # weight and labels are there already: what they are made of is not looked at
        mu=1.0,
        continuity=continuity,
        diagonals=diagonals,
        label_floor=1,
    )
    arrays = {"labels": labels, "logsumexp": logsumexp, "weight": weight}
    arrays |= {"grad_loss": grad_loss.contiguous(), "grad_x": grad_x}
    run_loss("dynamic_loss_backward", x, arguments, arrays)
    return grad_x


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, *given = inputs
    arguments, written = LossArguments(*given), _Outputs(*output)
    ctx.save_for_backward(
        x,
        arguments.mask,
        arguments.scribbles,
        arguments.guide,
        arguments.guide_weight,
        written.labels,
        written.logsumexp,
        written.weight,
    )
    ctx.options = (arguments.continuity, arguments.diagonals)
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_loss: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    of_arguments = (None,) * len(LossArguments._fields)
    if grad_loss is None:
        return None, *of_arguments
    return _dynamic_loss_backward(grad_loss, *ctx.saved_tensors, *ctx.options), *of_arguments


@operator(
    "dynamic_loss",
    f"(Tensor x, {LOSS_SCHEMA}) -> {returned(len(_Outputs._fields))}",
    fake=_fake_dynamic_loss,
    backward=_backward,
    setup_context=_setup_context,
)
def _dynamic_loss(x: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    outputs = empty_outputs(x)
    run_loss("dynamic_loss", x, LossArguments(*arguments), outputs._asdict())
    return (*outputs,)


@operator(
    "dynamic_loss_and_grad",
    f"(Tensor x, {LOSS_SCHEMA}) -> {returned(len(_Outputs._fields))}",
    fake=_fake_dynamic_loss_and_grad,
)
def _dynamic_loss_and_grad(x: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    outputs = empty_outputs(x)
    grad_x = result_memory(x)
    grad_loss = torch.full_like(outputs.loss, 1 / max(len(x), 1))
    arrays = outputs._asdict() | {"grad_x": grad_x, "grad_loss": grad_loss}
    run_loss("dynamic_loss", x, LossArguments(*arguments), arrays)
    return (*outputs[:-1], grad_x)  # no logsumexp: some kernels need none here, and leave it unwritten
