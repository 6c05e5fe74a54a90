"""Snapshots, findings and results as people read them. Decides nothing; prints what it is given."""
