"""What holds on a part of the input space."""
