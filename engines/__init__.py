"""Engines: run one graph. Inputs are checked once, in `base`; the backends stay thin."""
