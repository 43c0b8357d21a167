"""Ways of proving a block, one in each file: `prove(subject, proposals, standing, budget) -> Standing`."""
