"""The model in PyTorch. Nothing outside `sharpose.model`, `export` and `training` imports it."""

from sharpose.model.checkpoint import LoadedModel, load_model, random_model, save_checkpoint
from sharpose.model.stages import PoseOutput, SHaRPose

__all__ = ["LoadedModel", "PoseOutput", "SHaRPose", "load_model", "random_model", "save_checkpoint"]
