"""Conformance suites: what every implementation of an interface must pass, ours and yours. They need pytest."""
