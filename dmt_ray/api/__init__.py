"""Floor 6, the Python API: models that edit single photos, and whole runs. ``dmt_ray`` names all of it."""
