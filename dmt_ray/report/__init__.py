"""Floor 4, reports: pictures and figures of a finished run."""
