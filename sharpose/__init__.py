"""SHaRPose deployment toolkit: two-stage human pose estimation, exported and run without PyTorch."""

__version__ = "0.1.0"
