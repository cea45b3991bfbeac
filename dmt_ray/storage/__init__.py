"""Floor 2, storage: the only door to files, images and weights."""
