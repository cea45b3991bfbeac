"""Floor 3, the pipeline: plan, stream, commit, verify on Ray."""
