"""Web pages: the explorer and the API documentation."""
