"""TSM, the temporal shift module: video recognition at the cost of a 2D network."""
