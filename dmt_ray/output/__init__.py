"""Floor 3, the output: what a run leaves behind, written and checked without torch or Ray."""
