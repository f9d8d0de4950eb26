"""What is here to run a bundle with, and what it would do: the command rwcnet-doctor."""
