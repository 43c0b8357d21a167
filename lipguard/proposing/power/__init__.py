"""The power iteration on the network itself."""
