"""``torch.library`` operators over the native core, one file an operator."""

# Before anything else here needs it.
try:
    from dynamicseg import _native  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"the compiled module of dynamicseg cannot be loaded ({error}): install the package with `pip install .`, "
        "and do not run Python from the source folder without -P"
    ) from error

from dynamicseg.ops.dynamic_loss import dynamic_loss, dynamic_loss_and_grad
from dynamicseg.reference import DynamicLossOutput

__all__ = ["DynamicLossOutput", "dynamic_loss", "dynamic_loss_and_grad"]
