"""What proofs and iterations would take, and which proof is chosen for it."""
