"""Pictures of parts drawn from nothing: families, surfaces and defects."""
