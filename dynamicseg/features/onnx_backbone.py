"""Any network in an ONNX file, run by ONNX Runtime on the CPU."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamicseg._files import Refusal, one_line, opened
from dynamicseg.features.backbone import InputContract
from dynamicseg.inference.onnx_file import cost_of_backbone
from dynamicseg.inference.onnx_model import failure_of, import_runtime, session_options
from dynamicseg.memory import usable_cores

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from dynamicseg.features.options import FeatureOptions
    from dynamicseg.inference.onnx_sizes import Cost


class OnnxBackbone:
    """A network in an ONNX file; see ``backbone.Backbone``.

    Attributes:
        path: of the file.
        content: all of it.
        cost: what it takes on the way to its maps; None: nobody can tell.
    """

    def __init__(
        self,
        path: Path,
        content: bytes,
        session: Any,
        contract: InputContract,
        cost: Cost | None,
        facts: Mapping[str, Any],
    ) -> None:
        self.path = path
        self.content = content
        self._session = session
        self._input = session.get_inputs()[0].name
        self.contract = contract
        self.cost = cost
        self.facts: Mapping[str, str | Sequence[str]] = facts

    def __deepcopy__(self, memo: object) -> OnnxBackbone:
        """Return itself: nothing in it ever changes."""
        return self

    @classmethod
    def load(cls, options: FeatureOptions) -> OnnxBackbone:
        """Reads and checks the file.

        Raises:
            ValueError: it is no ONNX file, or one that could open other files or run other people's code; it takes
                something else than one image, or has no such outputs; or ONNX Runtime is not installed.
            OSError: it cannot be read.
        """
        path = Path(options.source)
        try:
            runtime = import_runtime()
        except ImportError as error:
            raise ValueError(str(error)) from None
        with opened(path) as file:
            content = file.read()
            cost = cost_of_backbone(content, options.outputs)
            settings = session_options(runtime, usable_cores())
            try:
                session = runtime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])
            except Exception as error:  # ONNX Runtime has no common class for its errors
                raise Refusal(f"cannot be run by ONNX Runtime {runtime.__version__}: {failure_of(error)}") from None
            size = _input_size(session, options.multiple)
            _check_outputs(session, options.outputs)
        facts = {
            "source": path.name,
            "sha256": hashlib.sha256(content).hexdigest(),
            "outputs": list(options.outputs),
        }
        contract = InputContract(options.mean, options.std, options.multiple, size)
        return cls(path, content, session, contract, cost, facts)

    def run(self, image: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """See ``Backbone``."""
        names = list(self.facts["outputs"])
        shape = f"{image.shape[2]}x{image.shape[3]} (height x width)"
        try:
            found = self._session.run(names, {self._input: np.ascontiguousarray(image)})
        except Exception as error:
            text = (
                f"failed on an image of {shape}: {failure_of(error)}; if it wants sides that are multiples of some "
                "other number, choose another feature_multiple"
            )
            raise ValueError(one_line(self.path, text)) from None
        for name, array in zip(names, found, strict=True):
            if array.ndim != 4 or array.shape[0] != 1 or 0 in array.shape or array.dtype.kind != "f":
                text = f"its output {name} is {array.dtype} {list(array.shape)}; want float [1, channels, h, w]"
                raise ValueError(one_line(self.path, text))
            if not np.isfinite(array).all():
                text = f"its output {name} holds NaN or infinity: check feature_mean and feature_std"
                raise ValueError(one_line(self.path, text))
        return [np.asarray(array[0], np.float32) for array in found]


def _input_size(session: Any, multiple: int) -> tuple[int | None, int | None]:
    """Height and width where the file fixes them; Refusal where its input is no image."""
    inputs = session.get_inputs()
    shape = inputs[0].shape if inputs else []
    # What is not fixed is a name, or None.
    is_image = len(shape) == 4 and all(
        not isinstance(side, int) or side == wanted for side, wanted in zip(shape, (1, 3), strict=False)
    )
    if len(inputs) != 1 or inputs[0].type != "tensor(float)" or not is_image:
        described = ", ".join(f"{one.name} {one.type} {one.shape}" for one in inputs) or "none"
        raise Refusal(f"takes {described}; features want one input, tensor(float) [1, 3, height, width]: export it so")
    size = tuple(side if isinstance(side, int) else None for side in shape[2:])
    if any(side is not None and side < 1 for side in size):
        raise Refusal(f"takes images of {shape[2]}x{shape[3]}; export it for sizes above 0")
    return size  # type: ignore[return-value]


def _check_outputs(session: Any, wanted: Sequence[str]) -> None:
    there = {one.name: one for one in session.get_outputs()}
    unknown = [name for name in wanted if name not in there]
    if unknown or not wanted:
        listed = ", ".join(f"{name} {one.shape}" for name, one in there.items())
        what = f"has no output {unknown[0]}" if unknown else "has outputs to choose from"
        raise Refusal(f"{what}; name its feature maps with feature_outputs, of: {listed}")
    for name in wanted:
        one = there[name]
        if one.type not in ("tensor(float)", "tensor(float16)") or len(one.shape) not in (0, 4):
            raise Refusal(f"its output {name} is {one.type} {one.shape}; want a float map [1, channels, h, w]")
