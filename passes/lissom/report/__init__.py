"""What was decided and measured, as versioned JSON and for reading."""
