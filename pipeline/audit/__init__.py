"""Know the pairs before training on them: measures of every pair, facts about them, and what the reference adds.

Measures come first (`text`, `tokens`, `near`, `contamination`, `relations`), one value per pair; checks are expressions
over them; a finding is a check with the rows it concerns. Layers add what later stages know.
"""
