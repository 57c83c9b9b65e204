"""Segmenters that fail, as the tests of ``--jobs`` need them. Worker processes import them by name."""

from __future__ import annotations

import os
import signal
from typing import Any

from dynamicseg.segmentation import Segmentation
from dynamicseg.segmenter import Segmenter


class KillingSegmenter(Segmenter):
    """Ends its own process at files called ``deadly...``, as the system does when memory runs out."""

    def segment(self, image: object, **options: Any) -> Segmentation:
        if "deadly" in os.path.basename(str(image)):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().segment(image, **options)


class FullSegmenter(Segmenter):
    """Never has enough memory."""

    def segment(self, image: object, **options: Any) -> Segmentation:
        raise MemoryError("too large")
