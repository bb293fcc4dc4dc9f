"""How much one visitor may send, so that a public page stays usable for all of them."""

MAX_FILE_SIZE = "25mb"
"""Largest uploaded file; larger ones are refused while they arrive."""

MAX_PIXELS = 50_000_000
"""Largest picture after decoding, against decompression bombs."""

MAX_REFERENCES = 32
"""Good pictures of one session."""

MAX_BATCH = 300
"""Pictures of one batch."""

MAX_CATEGORY = 80
"""Characters of a category."""

MAX_DESCRIPTION = 400
"""Characters of a description."""

MAX_QUESTION = 600
"""Characters of a question."""

MAX_TURNS = 40
"""Questions about one picture; the language model reads all of them again for each answer."""

MAX_WAITING = 64
"""Requests that wait in the queue; further ones are told to come back."""

MAX_SESSIONS = 400
"""Sessions kept; the one unused for the longest time is forgotten first."""

SESSION_SECONDS = 2 * 3600
"""A session unused for so long is forgotten, its files are deleted."""

FILE_SECONDS = 2 * 3600
"""Uploaded files and pictures made for the page are deleted after so long."""

LONGEST_WAIT = 300
"""Seconds to wait for the model before the visitor is told that it is busy."""
