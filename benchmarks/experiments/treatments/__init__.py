"""What the options of LFP do, measured before a default is chosen: gates, units, normalisation."""
