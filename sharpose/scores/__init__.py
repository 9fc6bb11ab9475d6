"""What scores mean: tables from raw scores to probabilities, kept in a bundle. Torch-free."""
