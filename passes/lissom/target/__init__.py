"""What lissom knows of a processor: measured there, or given as a class of processors."""
