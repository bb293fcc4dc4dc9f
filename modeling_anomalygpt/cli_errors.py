"""Any failure as one line for a person. Knows exceptions; imports nothing."""


def describe_error(error: BaseException) -> str:
    """What went wrong, in one line for a person.

    Args:
        error (`BaseException`): Any failure.

    Returns:
        `str`: Its message; with the type's name where the message alone would say nothing.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else ""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "allocate memory" in text:
        return "Not enough memory. Try a smaller --batch-size, --dtype bfloat16, or --device cpu."
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    if isinstance(error, (ValueError, OSError, RuntimeError)) and text:
        return text
    return f"{type(error).__name__}: {text}".rstrip(": ")


__all__ = ["describe_error"]
