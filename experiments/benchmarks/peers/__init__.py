"""The tools that people use today, run side by side with ours: environments, problems, adapters, accuracy against time.

Everything here but `modules` and the adapters runs without torch. An adapter (`python -m peers.run_...`) is run by the
python of its tool's own environment; `python experiments/benchmarks/peers run` does that.
"""
