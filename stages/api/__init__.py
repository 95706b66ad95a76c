"""Score the reference model once; train every preference-optimisation method from the cached columns."""
