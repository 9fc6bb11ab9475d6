"""Training and evaluation, which the rest of the library never imports."""
