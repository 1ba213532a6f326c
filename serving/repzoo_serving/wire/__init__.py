"""Version 1 of the wire: parse request bodies, encode response bodies, describe both."""
