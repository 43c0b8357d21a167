"""Orders of elimination."""
