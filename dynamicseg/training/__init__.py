"""Training one network for a set of images."""

from dynamicseg.training.config import TrainingConfig, configure_training

__all__ = ["TrainingConfig", "configure_training"]
