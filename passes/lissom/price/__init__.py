"""What options cost: latency measured on the asked-for execution provider."""
