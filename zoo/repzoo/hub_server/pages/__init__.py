"""Web pages that list a hub's models and show their cards."""
