"""Studies of lipguard that take longer than tests: `python -m tests.benchmarks --help` lists them."""
