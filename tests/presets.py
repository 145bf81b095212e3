"""A preset whose runs take seconds."""

PRESET = """
name = "tiny"
[system]
name = "in_context_regression"
dimension = 2
context_length = 4
num_layers = 1
num_heads = 2
width = 8
mlp_width = 8
num_sequences = 32
num_root_sequences = 8
[training]
num_steps = 60
batch_size = 8
warmup_steps = 5
[checkpoints]
linear_interval = 5
num_log = 4
[llc]
num_points = 2
num_samples = 100
num_chains = 2
num_draws = 20
num_burnin = 5
batch_size = 8
[[runs]]
num_tasks = 2
num_steps = 40
[[runs]]
num_tasks = inf
"""
