"""Results as data: numbers that others have published, and numbers that the recipes reached.

The CSV files in ``data`` hold the numbers. Accuracies are in per cent, as printed by their source.
"""
