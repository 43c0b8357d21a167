"""The verifier: what turns proposed multipliers into a proved bound. It knows nothing of the solvers."""
