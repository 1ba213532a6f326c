"""The routes of the Hub's HTTP API, with one module per group of routes."""
