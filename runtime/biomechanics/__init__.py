"""Keypoints and angles over time, a person at a time, as files for OpenSim and its kin."""
