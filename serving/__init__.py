"""Poses over a network: what a served model takes and gives, the repository for NVIDIA Triton, and the client."""
