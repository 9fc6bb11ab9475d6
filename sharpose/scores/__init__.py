"""What scores mean: tables from raw scores to probabilities, kept in a bundle, and how they are fitted. Torch-free."""
