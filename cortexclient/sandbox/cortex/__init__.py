"""A synthetic piece of cortex: neurons, their segmentation and its history, synapses and tables, all from one seed."""
