"""Where colorize finds colours: a bank of reference patches, a prior learned from them, and how sure both are."""
