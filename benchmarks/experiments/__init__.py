"""What a study can ask for; :mod:`benchmarks.experiments.kinds` has the names."""
