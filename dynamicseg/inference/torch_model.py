"""Trained models as they were saved, run by PyTorch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dynamicseg.inference.contract import contract_of
from dynamicseg.inference.running import cuda_index

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


class TorchModel:
    """A trained model in PyTorch, float32; see ``running.RunningModel``."""

    batch: int | None = None
    size: tuple[int, int] | None = None
    largest: tuple[int, int] | None = None

    def __init__(self, trained: Any, device: str, threads: int | None) -> None:
        import torch

        self._device = torch.device(device)
        self._threads = threads
        self._network = trained.network.to(self._device).to(memory_format=torch.channels_last)
        self.contract = contract_of(trained.description.model_dump(mode="json"))
        self.bytes_per_pixel = self.contract.bytes_per_pixel
        self.facts: Mapping[str, Any] = {
            "runtime": f"torch {torch.__version__}",
            "provider": "torch",
            "device": str(self._device),
            "threads": threads or torch.get_num_threads(),
        }

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        threads: int | None = None,
        device: str = "auto",
        backbone: str | os.PathLike[str] | None = None,
    ) -> TorchModel:
        """Reads what ``dynamicseg train`` wrote.

        Raises:
            ValueError: the file is no trained model, or the device is not there.
            OSError: the file cannot be read.
            ImportError: PyTorch is not installed.
        """
        cuda_index(device)  # refuses what is no device, before the seconds that PyTorch takes
        try:
            from dynamicseg.devices import present_device
            from dynamicseg.trained_model import TrainedModel
        except ImportError as error:
            raise ImportError(
                f"{path}: models as train writes them need the whole of DynamicSeg ({error}); "
                "export the model to ONNX for a device without it"
            ) from None
        return cls(TrainedModel.load(path, backbone), str(present_device(device)), threads)

    def free_memory(self) -> int | None:
        """See ``RunningModel.free_memory``."""
        from dynamicseg.training_memory import available_on

        return available_on(self._device)

    def labels(self, images: NDArray[np.uint8]) -> NDArray[np.int32]:
        """See ``RunningModel.labels``."""
        import torch

        from dynamicseg.devices import repeatable_convolutions

        with torch.inference_mode(), _threads_set_to(self._threads):
            # Bands stay last in memory, where the convolutions are fastest.
            values = torch.from_numpy(images.astype(np.float32) / np.float32(255)).permute(0, 3, 1, 2)
            try:
                # The same labels each time, and those of float32 on the CPU as nearly as a GPU can.
                with repeatable_convolutions(float32=True):
                    labels = self._network(values.to(self._device)).argmax(dim=1)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
                    height, width = images.shape[1:3]
                    raise MemoryError(
                        f"{width}x{height} pixels do not fit into memory: choose a smaller tile"
                    ) from None
                raise
            found: NDArray[np.int32] = labels.to(torch.int32).cpu().numpy()
        return found


@contextmanager
def _threads_set_to(threads: int | None) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
