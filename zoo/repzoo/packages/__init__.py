"""Model packages: files, config, manifest, names and signatures."""
