"""``torch.library`` operators over the native core, one file an operator."""

from pathlib import Path

# Before anything else here needs it.
try:
    from dynamicseg import _native  # noqa: F401
except ImportError as error:
    if (Path(__file__).parents[2] / "pyproject.toml").is_file():
        raise ImportError(
            "this is the source folder of dynamicseg, which has no compiled module: run Python from another folder, "
            "where it finds the installed package, or install it with `pip install -e .`"
        ) from None
    raise ImportError(
        f"the compiled module of dynamicseg cannot be loaded ({error}): install the package again with `pip install .`"
    ) from None

from dynamicseg.ops.batch_norm_dynamic_loss import BatchNormGrads, batch_norm_dynamic_loss_and_grad
from dynamicseg.ops.dynamic_loss import dynamic_loss, dynamic_loss_and_grad
from dynamicseg.ops.relu_batch_norm import relu_batch_norm
from dynamicseg.reference import DynamicLossOutput

__all__ = [
    "BatchNormGrads",
    "DynamicLossOutput",
    "batch_norm_dynamic_loss_and_grad",
    "dynamic_loss",
    "dynamic_loss_and_grad",
    "relu_batch_norm",
]
