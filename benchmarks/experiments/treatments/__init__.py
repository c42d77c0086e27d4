"""What the options of LFP do: gates, units and normalisation, measured before a default is chosen.

``python -m benchmarks.experiments.treatments gates|units|normalisation [FOLDER]`` makes the runs
that FOLDER/<name>.json does not have, by default in `benchmarks/stored/treatments`, writes the
tables to <name>.md and prints them.

- gates: what products with the output of a sigmoid share. The feedback of networks with such gates
  beside |w| times the gradient, before training; then small ones that are trained.
- units: what functions with f(0) != 0 do, as the hidden units of the MLP for digits.
- normalisation: whether rewards go through the statistics of a small Llama's normalisations.

Every arm has as many trials as any other, of the learning rate and, in LFP, of epsilon; plain
gradient descent has as many rates instead. Trials are chosen by validation with seeds of their own.
"""
