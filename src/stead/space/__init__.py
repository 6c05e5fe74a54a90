"""Address spaces: this process, a simulated one. A space is acted on from inside it."""
