"""Collapse statistics, pictures and plots of a run, while it trains."""
