"""How good poses are, how well quality is predicted, and which threshold to gate by."""
