"""What is done to the systems: a module for each kind of question."""
