"""The folder of a model, by name, and its configuration, with errors that say what to do.

Without the import of a model's code, which takes seconds: `prepare` reads only a tokenizer.
"""

from __future__ import annotations

from pathlib import Path

from transformers import AutoConfig, PretrainedConfig

from scoreonce.schemas.errors import InputError, first_line

# Set only by the command line's --trust-remote-code, never by a run file, which may come from someone else.
trust_remote_code = False

NOT_LOADED = ("*.gguf", "*.onnx", "*.msgpack", "*.h5", "original/*")
WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth")


def folder_of(name: str, revision: str | None = None, *, weights: bool = True) -> Path:
    """The local folder of a model or adapter: `name` itself, or the snapshot of a Hub repository, downloaded if needed.

    Without `weights` the download leaves them out. Raises `InputError` if there is neither.
    """
    if Path(name).is_dir():
        _require_plain(Path(name))
        return Path(name)
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise InputError(
            "No such model.",
            found=f"no folder {name}",
            where="reference.model / train.model",
            fix="Give a folder with config.json and safetensors, or a Hub name such as org/model.",
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(name, revision=revision, ignore_patterns=[*NOT_LOADED, *(() if weights else WEIGHTS)])
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            "No such model.",
            found=f"no folder {name}, and the Hub says: {first_line(error)}",
            where="reference.model / train.model",
            fix="Correct the name, log in with `hf auth login` if it is gated, or download it and give the folder.",
        ) from None


def _require_plain(folder: Path) -> None:
    """Raise `InputError` where a pipe or device stands among the files, which would be waited for."""
    for path in folder.iterdir():
        if path.exists() and not path.is_file() and not path.is_dir():
            raise InputError(
                "A model folder holds something that is no file.",
                found=f"{path.name} is a pipe, a socket or a device",
                where=str(folder),
                fix="Remove it, or give another folder.",
            )


def load_config(folder: Path) -> PretrainedConfig:
    """The configuration of a model folder. Raises `InputError` where it cannot be loaded, or is untrusted code."""
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:  # of any kind, where a file of the folder has another form than transformers expects
        raise InputError(
            "The model's configuration cannot be loaded.",
            found=first_line(error),
            where=str(folder),
            fix=code_fix(error)
            or "Check that the folder holds a causal language model: config.json and its safetensors.",
        ) from None
    return config


def code_fix(error: BaseException) -> str | None:
    """What to do where transformers refuses to run the Python code of a model folder; None for other errors."""
    if "trust_remote_code" not in str(error):
        return None
    return "The folder has Python code of its own. Read it, and if you trust it, add --trust-remote-code."
