"""A dataset's tables as files: read from the exports that its operators wrote, kept sorted on one's own disk."""
