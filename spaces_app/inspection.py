"""One inspection for one session: checks what was given, learns new references, inspects, remembers the result."""

from collections.abc import Sequence
from dataclasses import dataclass

from modeling_anomalygpt.results import InspectionResult

from .engine import Engine, learn_and_inspect
from .limits import MAX_REFERENCES
from .session import Session, references_key
from .uploads import RefusedError, clean_category, clean_description, clean_question, open_picture
from .words import words_of


@dataclass(frozen=True)
class Settings:
    r"""
    How a picture is inspected.

    Args:
        category, description, question (`str`):
            As typed; empty for none.
        language (`str`):
            `"en"` or `"zh"`: of question, answer and refusals.
        localization (`str`):
            `"auto"`, `"text"`, `"reference"` or `"mean"`.
        use_language (`bool`):
            Whether the language model is asked.
        rotations (`bool`):
            Whether turned copies of the references are learned as well.
        tile (`int`, *optional*):
            Side of the tiles of large pictures; 0 and `None`: none.
        mm_per_pixel (`float`, *optional*):
            Scale; 0 and `None`: unknown.
    """

    category: str = ""
    description: str = ""
    question: str = ""
    language: str = "en"
    localization: str = "auto"
    use_language: bool = True
    rotations: bool = False
    tile: int | None = None
    mm_per_pixel: float | None = None

    def options(self) -> dict:
        """The options of [`AnomalyInspector.inspect`]."""
        return {
            "category": clean_category(self.category),
            "description": clean_description(self.description),
            "question": clean_question(self.question) or None,
            "language": self.language,
            "localization": self.localization,
            "use_language": bool(self.use_language),
            "mm_per_pixel": self.mm_per_pixel or None,
        }


def inspect_picture(
    engine: Engine, session: Session, picture: str | None, references: Sequence[str], settings: Settings
) -> InspectionResult:
    r"""
    Inspects an uploaded picture and starts a new conversation about it.

    Args:
        engine ([`Engine`]):
            The shared model.
        session ([`Session`]):
            Of the visitor; keeps picture, references and result.
        picture (`str`, *optional*):
            Path of the uploaded picture.
        references (`list[str]`):
            Paths of uploaded good pictures; may be empty.
        settings ([`Settings`]):
            How.

    Returns:
        [`InspectionResult`]

    Raises:
        RefusedError: If something is missing or unusable; in the visitor's language.
    """
    words = words_of(settings.language)
    if not picture:
        raise RefusedError(words["no_picture"])
    if settings.localization in ("reference", "mean") and not references:
        raise RefusedError(words["needs_references"])
    opened = open_picture(picture, settings.language)
    learn = prepare(engine, session, references, settings)
    with engine.turn():
        inspector, result = learn_and_inspect(session.inspector, learn, opened, settings.options())
    remember(session, inspector, references, settings)
    session.picture, session.result = opened, result
    session.messages = []
    return result


def prepare(engine: Engine, session: Session, references: Sequence[str], settings: Settings) -> dict | None:
    """What the session's inspector still has to learn; `None` where it knows these references already.

    Args:
        engine, session, references, settings: See [`inspect_picture`].

    Returns:
        `dict`, *optional*: Arguments of [`AnomalyInspector.set_references`].

    Raises:
        RefusedError: If there are too many references, or one cannot be opened.
    """
    words, tile = words_of(settings.language), settings.tile or None
    if len(references) > MAX_REFERENCES:
        raise RefusedError(words["too_many_references"].format(limit=MAX_REFERENCES, count=len(references)))
    if not references:
        if session.learned is not None or session.tile != tile:
            session.inspector, session.learned, session.tile = engine.inspector(tile), None, tile
        return None
    if _key(references, settings) == session.learned:
        return None
    pictures = [open_picture(path, settings.language) for path in references]
    session.inspector, session.learned, session.tile = engine.inspector(tile), None, tile
    options = settings.options()
    return {
        "pictures": pictures,
        "category": options["category"],
        "description": options["description"],
        "rotations": bool(settings.rotations),
    }


def remember(session: Session, inspector: object, references: Sequence[str], settings: Settings) -> None:
    """Keeps an inspector that has learned these references, so that the next picture needs only itself."""
    session.inspector = inspector
    session.references = list(references)
    session.learned = _key(references, settings) if references else None


def _key(references: Sequence[str], settings: Settings) -> tuple:
    options = settings.options()
    return references_key(
        references, options["category"], options["description"], bool(settings.rotations), settings.tile or None
    )


__all__ = ["Settings", "inspect_picture", "prepare", "remember"]
