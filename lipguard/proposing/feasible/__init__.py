"""Making multipliers feasible: LipSDP's matrix with them is to be positive definite by a clearance."""
