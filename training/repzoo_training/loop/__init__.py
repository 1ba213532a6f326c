"""The training loop: steps, runs and checkpoints, budgets, interruption."""
