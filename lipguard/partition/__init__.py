"""How a network is cut into subnetworks and tiles: a plan, found from the architecture alone."""
