"""Measurements of speed and quality: ``python -m benchmarks NAME...``. Nothing in the package imports them."""
