"""Work in processes of its own: what it takes, and what it comes to."""
