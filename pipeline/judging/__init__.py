"""Judging sampled completions: from a judge's answers to win rates.

In: answers to two completions in both orders, or scores, and lengths. Out: preferences, win rates with intervals, the
judge's position bias, the win rate at equal lengths, and completions in the formats of other tools.
"""
