"""The tests that every method has to pass, and those of single methods."""
