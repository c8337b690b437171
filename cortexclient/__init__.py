"""A declarative registry of CAVE connectomics datasets, and one client that does the whole job on each of them."""
