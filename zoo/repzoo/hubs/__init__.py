"""The kinds of hubs that packages come from; see `repzoo.hub` for their protocol."""
