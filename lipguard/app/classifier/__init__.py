"""The networks that `lipguard train` trains: built from plain values, and rebuilt from checkpoints."""
