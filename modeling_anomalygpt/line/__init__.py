"""On the line: parts that are learned once and kept, folders that are watched, results of a shift."""
