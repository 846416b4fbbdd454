"""The actions of `decide`: each changes the draft of a decision."""
