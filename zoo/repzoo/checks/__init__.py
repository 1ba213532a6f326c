"""Check the content of a package's files before anything opens them."""
