"""Benchmarks of the library and its peers: `python -m benchmarks NAME`."""
