"""Small services, one for each framework."""
