"""What is said about a picture: facts, phrases, instructions, and the metrics of words."""
