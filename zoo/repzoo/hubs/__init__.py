"""Hubs: where packages come from. See `repzoo.hub` for the protocol."""
