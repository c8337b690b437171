"""One module per CAVE service; each has ``routes(world) -> list[Route]``."""
