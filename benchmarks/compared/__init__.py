"""The parts of `benchmarks/peers.py`: TRL and scoreonce side by side on the same model, tokens and steps."""
