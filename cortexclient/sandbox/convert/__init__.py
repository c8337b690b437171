"""Making sandbox data folders out of other recordings."""
