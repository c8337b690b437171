"""The chunkedgraph: its state, history, edits and place in space."""
