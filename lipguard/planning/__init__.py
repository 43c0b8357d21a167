"""What to prove, and how: partitions, proofs and their prices. A plan may be poor; no bound is false for it."""
