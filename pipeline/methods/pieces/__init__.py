"""What methods are composed of.

In: functions whose positional parameters are columns and whose keyword-only parameters are hyperparameters.
Out: registered pieces (derived columns, statistics, selections, calibrations, objectives, rewards), checked at import.
"""
