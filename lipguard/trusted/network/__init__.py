"""A traced network as a graph of layers, and its parts: blocks, pieces, tiles."""
