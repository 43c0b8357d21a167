"""What surrounds a verb: its errors, its folders, its table of epochs, and who works for it."""
