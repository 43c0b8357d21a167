"""Certified norms of layers, and the product bound."""
