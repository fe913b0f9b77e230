"""Evidence for a reader outside of the service: the signed heartbeat, which carries the head of the chain."""
