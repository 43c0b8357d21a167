"""Figures, for which matplotlib is needed."""
