"""Floor 6, the command line: presets, help texts, and what to say of a mistyped word."""
