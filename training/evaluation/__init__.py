"""Evaluation: accuracy of poses, calibration of predicted quality, and the choice of the gate's threshold."""
