"""Engines, run by TensorRT or TensorRT-RTX; needs an NVIDIA GPU."""

from __future__ import annotations

import contextlib
import weakref
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

    def __init__(self, engine: Any, context: Any, file: EngineFile, gpu: Gpu, facts: Mapping[str, Any]) -> None:
        self.contract = file.contract
        self.facts = facts
        # What the layers take, the context has already; only images and labels are still to come.
        self.bytes_per_pixel = file.contract.bands + np.dtype(np.int32).itemsize
        self._gpu = gpu
        self._on_gpu = _OnGpu(engine, context, gpu)
        self._free_memory = gpu.free_memory()
        weakref.finalize(self, self._on_gpu.give_back)
        smallest, _, largest = (tuple(shape) for shape in engine.get_tensor_profile_shape("image", 0))
        self._smallest, self._most = smallest, largest[0]
        self.batch: int | None = smallest[0] if smallest[0] > 1 else None
        self.size: tuple[int, int] | None = largest[1:3] if smallest[1:3] == largest[1:3] else None
        self.largest: tuple[int, int] | None = largest[1:3]

    @classmethod
    def load(cls, path: Path, *, device: str = "auto") -> EngineModel:
        """Opens an engine, once its sidecar says that it was built for this GPU and this version.

        Raises:
            ValueError: it is damaged, foreign, or built for something else; or there is no GPU.
            OSError: it cannot be read.
            ImportError: TensorRT is not installed.
            MemoryError: the GPU has too little for it.
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
        return cls(engine, _context(path, file, engine, gpu), file, gpu, facts)

    def free_memory(self) -> int | None:
        """See ``RunningModel.free_memory``."""
        return self._free_memory

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
        context = self._on_gpu.context
        if not context.set_input_shape("image", images.shape):
            raise ValueError(f"the engine takes no images of {width}x{height} pixels: build it for them")
        context.set_tensor_address("image", self._on_gpu.address("image", images.nbytes))
        context.set_tensor_address("labels", self._on_gpu.address("labels", labels.nbytes))
        self._gpu.copy_in(self._on_gpu.address("image", images.nbytes), images)
        if not context.execute_async_v3(self._gpu.stream):
            raise ValueError("TensorRT failed to run the engine, see above")
        self._gpu.copy_out(labels, self._on_gpu.address("labels", labels.nbytes))
        self._gpu.wait()
        return labels[:batch, :height, :width]


class _OnGpu:
    """What an engine has on a GPU. It does not know the model that uses it, and so is there after it."""

    def __init__(self, engine: Any, context: Any, gpu: Gpu) -> None:
        self.context = context
        self._engine = engine
        self._gpu = gpu
        self._buffers: dict[str, tuple[int, int]] = {}  # address and bytes

    def address(self, name: str, nbytes: int) -> int:
        """Of memory on the GPU that is kept from call to call, and grows with the images."""
        address, size = self._buffers.get(name, (0, 0))
        if size < nbytes:
            if address:
                del self._buffers[name]
                self._gpu.free(address)
            address = self._gpu.allocate(nbytes)
            self._buffers[name] = address, nbytes
        return address

    def give_back(self) -> None:
        """All of it, in this order: TensorRT's objects need the GPU's context until they are gone."""
        self.context = self._engine = None
        while self._buffers:
            _, (address, _) = self._buffers.popitem()
            with contextlib.suppress(ValueError):  # after an error on the GPU, this one has nothing new to say
                self._gpu.free(address)


def _context(path: Path, file: EngineFile, engine: Any, gpu: Gpu) -> Any:
    """What runs an engine, with the memory for its layers."""
    context = engine.create_execution_context()
    if context is None:
        free = gpu.free_memory() / 1e9
        needs = getattr(engine, "device_memory_size_v2", None) or getattr(engine, "device_memory_size", None)
        wants = "" if needs is None else f"the engine wants {needs / 1e9:.1f} GB and "
        text = (
            f"cannot be prepared by {KINDS[file.kind]}, most likely for lack of memory: {wants}{free:.1f} GB are free "
            f"on {gpu.name}; end other programs, or export the model with a smaller --max-size"
        )
        raise MemoryError(one_line(path, text))
    return context


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
