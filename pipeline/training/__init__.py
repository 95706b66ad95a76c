"""One optimizer step.

In: the step's prompt rows and cached columns, a scorer, a method. Out: gradients on the parameters, the method's
outcome per pair, metrics.
"""
