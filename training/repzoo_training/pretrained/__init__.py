"""The weights of packages and runs, back in torch: to be trained further, or used in other code."""
