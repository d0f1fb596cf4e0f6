"""What tests of an implementation need: golden files, assertions, Hypothesis strategies, planted faults."""
