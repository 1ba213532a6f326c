"""What a whole collection of images holds: ``zoo duplicates`` and ``zoo map``.

embedded    the embeddings of a source, and its images again
altered     how far an altered copy of an image is from the image
groups      images that are closer to each other than that
sheet       a picture of the groups
duplicates  from a source to a CSV file and a contact sheet
plane       embeddings in two dimensions
map         from a source to a page with a map of it
"""
