"""How fast the trail is, as ratios to its peers; README.md says how to read it."""
