"""From a torch module to a network."""
