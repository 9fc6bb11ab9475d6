"""Labelled people and the crops that a model is trained on."""
