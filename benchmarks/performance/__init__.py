"""How fast the project is: rooflines, scaling, rivals, and its history over commits."""
