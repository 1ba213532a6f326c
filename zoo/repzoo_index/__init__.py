"""The command `zoo index`: search images with a model package and an index of posteriors."""
