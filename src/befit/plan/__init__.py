"""Does a model fit a machine, and what would? Arithmetic over headers: nothing here loads a weight."""
