"""The tests against the authors' package, which may be missing."""
