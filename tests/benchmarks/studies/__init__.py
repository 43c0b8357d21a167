"""One file per study: what it is for as its docstring, `add_options(parser)`, and `run(chosen)`."""
