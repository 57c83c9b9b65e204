"""``torch.library`` operators over the native core, one file an operator."""

from dynamicseg.ops.dynamic_loss import dynamic_loss, dynamic_loss_and_grad
from dynamicseg.reference import DynamicLossOutput

__all__ = ["DynamicLossOutput", "dynamic_loss", "dynamic_loss_and_grad"]
