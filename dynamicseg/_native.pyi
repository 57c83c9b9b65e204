"""Types of the compiled module; see csrc/bindings.cpp. Not public: use ``dynamicseg.ops``."""

from typing import Literal, TypedDict

class DynamicLossParams:
    """Addresses, sizes and strides (in elements) of one call, see dynamicseg/dynamic_loss.h; 0 is no array."""

    def __init__(
        self,
        *,
        x: int,
        dtype: str,
        format: Literal["contiguous", "channels_last"],
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        mask: int,
        superpixels: int,
        superpixel_count: int,
        scribbles: int,
        guide: int,
        guide_weight: int,
        scribble_weight: float,
        weighting: str,
        mu: float,
        label_floor: int,
        continuity_kind: str,
        diagonals: bool,
        labels: int,
        logsumexp: int,
        label_counts: int,
        similarity: int,
        continuity: int,
        weight: int,
        loss: int,
        scribble_cross_entropy: int,
        guide_cross_entropy: int,
        grad_x: int,
        grad_strides: tuple[int, ...],
        grad_loss: int,
    ) -> None: ...

class BatchNormDynamicLossParams:
    """Those of the loss, and addresses of arrays of one number a channel, see dynamicseg/batch_norm_dynamic_loss.h."""

    def __init__(
        self,
        *,
        loss: DynamicLossParams,
        eps: float,
        weight: int,
        bias: int,
        grad_weight: int,
        grad_bias: int,
    ) -> None: ...

class ReluBatchNormParams:
    """Addresses, sizes and strides (in elements) of one call, see dynamicseg/relu_batch_norm.h; 0 is no array."""

    def __init__(
        self,
        *,
        x: int,
        dtype: str,
        format: Literal["contiguous", "channels_last"],
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        relu: bool,
        eps: float,
        weight: int,
        bias: int,
        mean: int,
        rstd: int,
        y: int,
        y_strides: tuple[int, ...],
        grad_y: int,
        grad_y_strides: tuple[int, ...],
        grad_x: int,
        grad_x_strides: tuple[int, ...],
        grad_weight: int,
        grad_bias: int,
    ) -> None: ...

class ResultMemory:
    """Memory for a large result, as a writable buffer of bytes."""

    def __init__(self, bytes: int) -> None: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

class BuildInfo(TypedDict):
    compiler: str
    build_type: str
    cuda: bool
    cuda_reason: str

def dynamic_loss(params: DynamicLossParams) -> None: ...
def dynamic_loss_backward(params: DynamicLossParams) -> None: ...
def batch_norm_dynamic_loss(params: BatchNormDynamicLossParams) -> None: ...
def relu_batch_norm(params: ReluBatchNormParams) -> None: ...
def relu_batch_norm_backward(params: ReluBatchNormParams) -> None: ...
def felzenszwalb(
    *,
    image: int,
    shape: tuple[int, ...],
    scales: list[float],
    min_sizes: list[int],
    wide_edges: bool,
    segments: int,
) -> None:
    """Addresses, and what is at them, see dynamicseg/felzenszwalb.h."""

def merge_neighbours(
    *,
    leaves: int,
    colours: int,
    features: int,
    areas: int,
    means: int,
    pairs: int,
    first: int,
    second: int,
    lengths: int,
    gradients: int,
    gradient_weight: float,
    half_area: float,
    children: int,
) -> None:
    """Sizes, and addresses of arrays, see dynamicseg/region_tree.h."""

def stability(
    *,
    leaves: int,
    children: int,
    areas: int,
    segmentations: int,
    first_region: int,
    region_areas: int,
    row_begin: int,
    regions: int,
    pixels: int,
    stability: int,
) -> None:
    """Sizes, and addresses of arrays, see dynamicseg/region_tree.h."""

def begin_keeping_freed_memory() -> None: ...
def end_keeping_freed_memory() -> None: ...
def set_threads(threads: int, openmp_parallel: int) -> None: ...
def thread_count() -> int: ...
def uses_openmp() -> bool: ...
def available_instruction_sets() -> list[str]: ...
def instruction_set() -> str: ...
def set_instruction_set(name: str) -> None: ...
def build_info() -> BuildInfo: ...
