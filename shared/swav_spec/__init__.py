"""What SwAV is: one idea a file, NumPy float64, no framework."""
