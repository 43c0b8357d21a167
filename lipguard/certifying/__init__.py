"""Bounds: the only place that composes plans, proposals and proofs."""
