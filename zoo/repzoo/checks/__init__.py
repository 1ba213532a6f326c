"""Check the files of a package before anything opens them."""
