"""Floor 3, reports: pictures and figures of a finished run."""
