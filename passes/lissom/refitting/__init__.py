"""What gives a compressed network back some of what it lost."""
