"""Training of a cascade, stage by stage, from one file of settings."""
