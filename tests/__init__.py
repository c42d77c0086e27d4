"""The tests of the harness, which are not installed."""
