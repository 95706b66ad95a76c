"""The verdict on a training run: its facts, gathered from what the stages wrote, and how it is said.

In: the paths of a run, and an evaluation where there is one. Out: a verdict, its lines for the terminal, and the
document that `evaluate` writes and the report shows.
"""
