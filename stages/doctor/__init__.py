"""`scoreonce doctor`: what of this machine and of a run would stop a stage, or make it slow.

In: the machine, and a run file or none. Out: facts, and findings, each with what to do. `machine`, `packages` and
`stores` look; the checks are pure functions of the facts that they found.
"""
