"""Floor 4, the jobs: what each job learns from, and how it edits."""
