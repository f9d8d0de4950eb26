"""Other registration programs, each in its own environment, and what they find as our fields."""
