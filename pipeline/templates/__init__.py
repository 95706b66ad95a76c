"""The chat template of a tokenizer.

In: a tokenizer, perhaps another template and its variables. Out: a renderer of messages, the token that ends a turn,
and prepared pairs as text that shows what the template wrote.
"""
