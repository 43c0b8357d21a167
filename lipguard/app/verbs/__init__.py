"""One file for each verb of the command: a function of its configuration."""
