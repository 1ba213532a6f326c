"""Model packages: their files, config, manifest, names and signatures."""
