"""Version 1 of the wire: parse request bodies, write responses, describe both."""
