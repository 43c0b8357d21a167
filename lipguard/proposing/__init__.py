"""Multipliers, without any guarantee."""
