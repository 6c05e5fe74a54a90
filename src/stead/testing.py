"""For tests, ours and others': a simulated space, and the conformance kit that every space must pass."""
