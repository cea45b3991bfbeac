"""Floor 1, the method: pure torch and NumPy, no Ray, no files."""
