"""Measurements of the project; each prints or writes the numbers that the documents quote."""
