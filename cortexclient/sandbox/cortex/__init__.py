"""The synthetic cortex: neurons, chunks, synapses, tables and history, deterministic from a seed."""
