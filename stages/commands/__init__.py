"""Commands that are no stage: lists, paths, SQL and the generated method page. Options and failures of all commands.

In: a run file or a method name. Out: text.
"""
