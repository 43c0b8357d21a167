"""LipSDP's matrix: written out, sparse, and as two passes through the network."""
