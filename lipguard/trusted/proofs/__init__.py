"""Proofs that a matrix is positive semidefinite, of several kinds."""
