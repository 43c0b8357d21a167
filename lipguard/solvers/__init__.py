"""Proposing multipliers. Nothing here is trusted: a solver that errs makes a bound loose, never wrong."""
