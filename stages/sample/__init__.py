"""Stage `sample`: completions that the reference and policies write.

In: prompts of the prepared pairs or of a file, and models. Out: `samples/<label>/`, with the log-prob of each
completion under the model that wrote it and under the reference.
"""
