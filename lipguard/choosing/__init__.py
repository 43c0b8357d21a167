"""Choosing among checkpoints."""
