"""Watch a run while it trains: collapse metrics, pictures, plots."""
