"""The command `zoo index`: search a folder of images with a package and a posterior index."""
