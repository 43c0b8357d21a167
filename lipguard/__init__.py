"""Certified Lipschitz bounds of a network while it trains."""

__version__ = "0.1.0"
