"""The training loop: steps, checkpoints, time budgets and interruption."""
