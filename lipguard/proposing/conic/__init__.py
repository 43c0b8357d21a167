"""Conic solvers."""
