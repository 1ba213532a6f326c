"""The explorer and the API reference: pages for a browser."""
