"""Activation ranges for int8 and the accuracy they cost. Empty until the calibration work lands."""
