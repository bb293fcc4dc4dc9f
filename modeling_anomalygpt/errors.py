"""Any failure as one line for a person. Knows exceptions; imports nothing."""

import difflib
import os
from collections.abc import Iterable, Iterator

from huggingface_hub import HfApi, constants, get_token, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import logging

_LOGIN = "Make one at https://huggingface.co/settings/tokens and run `hf auth login`, or set HF_TOKEN."


class HubError(RuntimeError):
    """A transfer to or from the Hub that failed; the message is one line that says why and what to do."""


def hub_failure(error: BaseException, repo_id: str) -> str | None:
    """The reason behind a failure, looked for in the chain of its causes.

    Args:
        error (`BaseException`): What `huggingface_hub`, transformers, peft or `datasets` raised.
        repo_id (`str`): The repository it was about, such as `"user/name"`.

    Returns:
        `str`, *optional*: One line; `None` where the failure has nothing to do with the Hub.
    """
    for cause in _causes(error):
        if isinstance(cause, OfflineModeIsEnabled):
            return f"The Hub is switched off by HF_HUB_OFFLINE, and {repo_id!r} is needed from there. Unset it."
        if isinstance(cause, HFValidationError):
            return f"The name of a Hub repository must look like user/name, got {repo_id!r}."
        if isinstance(cause, GatedRepoError):
            return f"{repo_id!r} must be asked for on its page on the Hub before it can be read."
        if isinstance(cause, HfHubHTTPError):
            return _refused(cause, repo_id)
        if any(kind.__name__ in ("TransportError", "ConnectionError") for kind in type(cause).__mro__):
            return f"No connection to the Hub at {constants.ENDPOINT}. Check the network, then run the same again."
    if any(isinstance(cause, LocalEntryNotFoundError) for cause in _causes(error)):
        off = " (HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE else ""
        where = f"No connection to the Hub at {constants.ENDPOINT}{off}"
        return f"There is no folder {repo_id!r} here. {where}, and {repo_id!r} is not in the cache."
    return None


def quiet_client() -> None:
    """No log lines of the client between a command and its one line; its retries go on."""
    logging.set_verbosity_error()


def needs_connection(repo_id: str) -> None:
    """Asks the Hub once where nothing of a model is in the cache: the client itself would try for half a minute.

    Raises:
        HubError: If the Hub cannot be reached. What it answers, a refusal too, is left to whoever reads the files.
    """
    cached = (try_to_load_from_cache(repo_id, name) for name in ("config.json", "adapter_config.json"))
    if constants.HF_HUB_OFFLINE or any(isinstance(path, str) for path in cached):
        return
    try:
        HfApi(library_name="anomalygpt").model_info(repo_id, expand=["sha"], timeout=10)
    except HfHubHTTPError:
        return
    except Exception as error:  # of the HTTP library that the client uses
        reason = hub_failure(error, repo_id)
        if reason is None:
            raise
        raise HubError(reason) from error


def needs_token() -> None:
    """Refuses to go on where there is no token for the Hub.

    Raises:
        HubError: If neither `hf auth login` nor HF_TOKEN gave one.
    """
    if not get_token():
        raise HubError(f"There is no token for the Hub. {_LOGIN}")


def _refused(error: HfHubHTTPError, repo_id: str) -> str:
    status = error.response.status_code if error.response is not None else 0
    known = get_token() is not None
    if isinstance(error, RevisionNotFoundError):
        return f"{repo_id!r} has no such revision on the Hub."
    if isinstance(error, RepositoryNotFoundError) or (status == 401 and not known):
        seen = "or it is private and this token may not see it" if known else "or it is private and there is no token"
        hint = "Check the name." if known else f"Check the name. {_LOGIN}"
        return f"There is no {repo_id!r} on the Hub, {seen}. {hint}"
    if status == 401:
        origin = "in HF_TOKEN " if os.environ.get("HF_TOKEN") else ""
        return f"The Hub does not know the token {origin}(401). {_LOGIN}"
    if status == 403:
        return f"The token may not write to {repo_id!r} (403). Use your own name and a token with write access."
    if status >= 500:
        return f"The Hub at {constants.ENDPOINT} has a problem of its own ({status}). Try again later."
    return f"The Hub refused {repo_id!r} ({status}): {error.server_message or 'no reason given'}."


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def describe_error(error: BaseException) -> str:
    """What went wrong, in one line for a person.

    Returns:
        `str`: Its message; with the type's name where the message alone would say nothing.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else ""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "allocate memory" in text:
        return "Not enough memory. Try a smaller --batch-size, --dtype bfloat16, or --device cpu."
    if isinstance(error, OSError) and error.strerror:
        name, cache = str(error.filename or ""), constants.HF_HOME  # or a folder above it that cannot be made
        concerned = name and (name.startswith(cache) or cache.startswith(name.rstrip("/") + "/"))
        hint = ". Set HF_HOME to a folder that you may write to." if concerned else ""
        return f"{error.strerror}: {error.filename}{hint}" if error.filename else error.strerror
    missing_package = isinstance(error, ImportError) and not isinstance(error, ModuleNotFoundError)
    if (missing_package or isinstance(error, (ValueError, OSError, RuntimeError))) and text:
        return text
    return f"{type(error).__name__}: {text}".rstrip(": ")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`" Did you mean 'x'?"` with the known word that is most like this one; empty where none is."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
