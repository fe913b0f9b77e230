"""Frameworks, one module each, which imports it on top."""
