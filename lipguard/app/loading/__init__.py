"""Models of one's own, from the files in which people keep them."""
