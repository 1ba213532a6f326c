"""Results as data: what papers published and what our recipes reached."""
