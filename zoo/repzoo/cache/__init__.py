"""The user's cache of packages: layout, downloads, installation, trust and cleanup."""
