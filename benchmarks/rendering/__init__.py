"""How results are shown: tables as text, styles of figures, curves, and documents."""
