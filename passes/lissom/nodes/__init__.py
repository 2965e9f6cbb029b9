"""Node pruning: whole channels and neurons are removed."""
