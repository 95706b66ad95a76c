"""Commands that are no stage: lists, paths, SQL, previews, stores and the generated method page.

In: a run file or a method name. Out: text.
"""
