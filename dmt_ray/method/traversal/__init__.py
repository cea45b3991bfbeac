"""Traversal: from a picture's features and the exemplars to the features it is moved to."""
