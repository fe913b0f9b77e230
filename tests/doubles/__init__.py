"""Doubles and instruments that several tests share, each named for what it is."""
