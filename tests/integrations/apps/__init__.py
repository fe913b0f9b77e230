"""Small real applications, one for each framework: those that the docs show."""
