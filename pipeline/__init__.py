"""How a step works: pure functions on columns and tensors. Opens no path, prints nothing, reads no environment."""
