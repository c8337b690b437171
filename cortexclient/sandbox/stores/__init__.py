"""The sandbox's data, loaded from a folder and answering questions; no HTTP here."""
