"""Engines, run by TensorRT or TensorRT-RTX; needs an NVIDIA GPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamicseg._files import one_line
from dynamicseg.inference.cuda_driver import Gpu
from dynamicseg.inference.engine_file import (
    VERSION_COMPATIBLE,
    EngineFile,
    check_device,
    check_version,
    read_engine,
    rebuild,
)
from dynamicseg.inference.running import cuda_index
from dynamicseg.inference.tensorrt_library import KINDS, import_tensorrt

if TYPE_CHECKING:
    from numpy.typing import NDArray


class EngineModel:
    """An engine in TensorRT; see ``running.RunningModel``."""

    def __init__(self, engine: Any, file: EngineFile, gpu: Gpu, facts: Mapping[str, Any]) -> None:
        self.contract = file.contract
        self.facts = facts
        self._gpu = gpu
        self._context = engine.create_execution_context()
        smallest, _, largest = (tuple(shape) for shape in engine.get_tensor_profile_shape("image", 0))
        self._smallest, self._most = smallest, largest[0]
        self.batch: int | None = smallest[0] if smallest[0] > 1 else None
        self.size: tuple[int, int] | None = largest[1:3] if smallest[1:3] == largest[1:3] else None
        self.largest: tuple[int, int] | None = largest[1:3]
        self._buffers: dict[str, tuple[int, int]] = {}  # address and bytes

    @classmethod
    def load(cls, path: Path, *, device: str = "auto") -> EngineModel:
        """Opens an engine, once its sidecar says that it was built for this GPU and this version.

        Raises:
            ValueError: it is damaged, foreign, or built for something else; or there is no GPU.
            OSError: it cannot be read.
            ImportError: TensorRT is not installed.
        """
        index = cuda_index(device)
        if device == "cpu":
            raise ValueError(f"{path.name} is an engine, which runs on a GPU: choose device auto, cuda or cuda:N")
        file = read_engine(path)
        trt = import_tensorrt(file.kind)
        check_version(path, file, str(trt.__version__))
        gpu = Gpu(index or 0)
        check_device(path, file, gpu.name, gpu.compute_capability)
        runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        if VERSION_COMPATIBLE in file.flags:
            runtime.engine_host_code_allowed = True  # such a plan carries a part of TensorRT with it
        engine = runtime.deserialize_cuda_engine(file.content)
        if engine is None:
            name = f"{KINDS[file.kind]} {trt.__version__}"
            raise ValueError(one_line(path, f"is refused by {name}, see above: {rebuild(path, file)}"))
        _check_tensors(path, trt, engine)
        facts = {
            "runtime": f"{file.kind} {trt.__version__}",
            "provider": file.kind,
            "device": f"cuda:{index or 0}",
            "threads": None,
            "gpu": gpu.name,
        }
        return cls(engine, file, gpu, facts)

    def labels(self, images: NDArray[np.uint8]) -> NDArray[np.int32]:
        """See ``RunningModel.labels``."""
        parts = [self._run(images[k : k + self._most]) for k in range(0, len(images), self._most)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _run(self, images: NDArray[np.uint8]) -> NDArray[np.int32]:
        batch, height, width, _ = images.shape
        missing = [max(0, least - size) for least, size in zip(self._smallest[:3], images.shape, strict=False)]
        if self.contract.radius is None and any(missing[1:]):
            least = f"{self._smallest[2]}x{self._smallest[1]}"
            raise ValueError(
                f"the image has {width}x{height} pixels, and the engine wants the whole view at {least} or more"
            )
        if any(missing):  # smaller than the engine was built for: the edge of the image goes on
            images = np.pad(images, [(0, more) for more in missing] + [(0, 0)], mode="edge")
        images = np.ascontiguousarray(images)
        labels = np.empty(images.shape[:3], np.int32)
        self._gpu.use()
        context = self._context
        if not context.set_input_shape("image", images.shape):
            raise ValueError(f"the engine takes no images of {width}x{height} pixels: build it for them")
        context.set_tensor_address("image", self._address("image", images.nbytes))
        context.set_tensor_address("labels", self._address("labels", labels.nbytes))
        self._gpu.copy_in(self._address("image", images.nbytes), images)
        if not context.execute_async_v3(self._gpu.stream):
            raise ValueError("TensorRT failed to run the engine, see above")
        self._gpu.copy_out(labels, self._address("labels", labels.nbytes))
        self._gpu.wait()
        return labels[:batch, :height, :width]

    def _address(self, name: str, nbytes: int) -> int:
        """Of memory on the GPU that is kept from call to call, and grows with the images."""
        address, size = self._buffers.get(name, (0, 0))
        if size < nbytes:
            if address:
                self._gpu.free(address)
                del self._buffers[name]
            address = self._gpu.allocate(nbytes)
            self._buffers[name] = address, nbytes
        return address


def _check_tensors(path: Path, trt: Any, engine: Any) -> None:
    wanted = {
        "image": (trt.TensorIOMode.INPUT, trt.DataType.UINT8, 4),
        "labels": (trt.TensorIOMode.OUTPUT, trt.DataType.INT32, 3),
    }
    names = [engine.get_tensor_name(k) for k in range(engine.num_io_tensors)]
    found = {
        name: (engine.get_tensor_mode(name), engine.get_tensor_dtype(name), len(tuple(engine.get_tensor_shape(name))))
        for name in names
    }
    if found != wanted:
        raise ValueError(one_line(path, f"has other inputs and outputs than exported engines ({', '.join(names)})"))
