"""Pictures and collapse statistics of a run, while it trains."""
