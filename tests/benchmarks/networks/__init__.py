"""The networks that are measured: of others, trained here, or with initial weights."""
