"""The routes of the Hub's HTTP API, one module per group of routes."""
