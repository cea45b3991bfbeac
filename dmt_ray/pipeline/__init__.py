"""Floor 5, the pipeline: plan, stream, commit, verify on Ray."""
