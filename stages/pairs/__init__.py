"""Stage `pairs`: scored samples as graded lists, of which `prepare` makes pairs.

In: samples, and the scores of one or several judgements. Out: `graded/<name>/pairs.jsonl`, a line for each prompt.
"""
