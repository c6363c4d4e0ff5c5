"""Help texts: written wrapped in the source, shown at the width of the terminal."""

KEEP_LINES = "\b"


def flow(text: str) -> str:
    r"""Join the lines of each paragraph, since typer does so for the first one alone.

    Args:
        text: Paragraphs with blank lines between; one that begins with a line `\b` keeps its lines.
    """
    paragraphs = text.strip("\n").split("\n\n")
    return "\n\n".join(part if part.startswith(KEEP_LINES) else " ".join(part.split("\n")) for part in paragraphs)
