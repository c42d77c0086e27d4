"""The property tests of the engine."""
