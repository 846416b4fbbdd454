"""What `decide` does: each function changes the draft of a decision."""
