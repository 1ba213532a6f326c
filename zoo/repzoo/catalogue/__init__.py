"""List, search and compare the packages of a hub or the cache."""
