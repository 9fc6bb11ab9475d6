"""Training and evaluation. Beside the library, and never imported by it."""
