"""Torch modules as graphs of frozen layer values, and their bias-free linearised form."""
