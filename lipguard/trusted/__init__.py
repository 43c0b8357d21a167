"""All that a bound rests on: it is right if this folder is, and the libraries torch, numpy and scipy."""
