"""One optimizer step.

In: prompt rows and cached columns of the step's pairs, a scorer, a method. Out: gradients on the parameters, the
method's outcome per pair, and metrics.
"""
