"""Small networks, written anew in the ways in which research code and tutorials write them."""
