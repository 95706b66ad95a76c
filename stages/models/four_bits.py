"""Frozen weights in 4 bits: NormalFloat with double quantisation, by bitsandbytes.

Dettmers et al. 2023, "QLoRA": blocks of 64 weights share a scale, whose own 8 bits share a float32 scale in blocks of
256. Products are computed in the dtype of the model with the weights that this gives, so its log-probs are those of
another model than the one with all bits. Embeddings, norms and the output head keep their dtype.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from scoreonce.schemas.errors import InputError
from scoreonce.stages.weights.finite import not_finite


def require_bitsandbytes() -> Any:
    """The package. Raises `InputError` where it is not installed."""
    try:
        import bitsandbytes
    except ImportError:
        raise InputError(
            "Weights in 4 bits need the bitsandbytes package.",
            found="bitsandbytes is not installed",
            where='reference.quantization = "nf4"',
            fix="pip install 'scoreonce[quantization]'.",
        ) from None
    return bitsandbytes


def nf4_options(folder: Path, dtype: torch.dtype, device: torch.device | str) -> dict[str, Any]:
    """How transformers loads the model in `folder` in 4 bits, to compute in `dtype` on `device`.

    Raises `InputError` where bitsandbytes is missing, or a weight is not finite: in 4 bits that could not be seen.
    """
    require_bitsandbytes()
    bad = []
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as stored:
            bad += [name for name in stored.keys() if not stored.get_tensor(name).isfinite().all()]  # noqa: SIM118
    if bad:
        raise not_finite(bad, folder)
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": settings, "device_map": {"": torch.device(device)}}


def require_nf4(model: PreTrainedModel, folder: Path) -> None:
    """Raise `InputError` where a model that was loaded so has no layer in 4 bits."""
    layers = _layers(model)
    if not layers:
        raise InputError(
            "No layer of the model can be kept in 4 bits.",
            found=f"no linear layer in {type(model).__name__} besides the output head",
            where=str(folder),
            fix="Leave out reference.quantization.",
        )
    for layer in layers:
        # With AVX-512 in bfloat16 the forward pass without gradient would repack the weights, for a kernel that has no
        # backward pass and rounds otherwise: scores and policy would differ, and gradients end there.
        layer.support_avx512bf16_for_cpu = False


def with_all_bits(model: PreTrainedModel) -> PreTrainedModel:
    """The model with its weights in 4 bits as ordinary ones of the same values, in the dtype that it computed in.

    Raises `InputError` where transformers would write them in another order than it reads them.
    """
    if any(issubclass(layer.source_cls, Conv1D) for layer in _layers(model)):
        raise InputError(
            "Weights in 4 bits of this architecture cannot be written with all bits.",
            found=f"{type(model).__name__}, whose linear layers are Conv1D",
            where="the base model",
            fix="Load the base model in 4 bits and the adapter with PEFT.",
        )
    dtype = model.config.quantization_config.bnb_4bit_compute_dtype
    whole: PreTrainedModel = model.dequantize(dtype)
    for parameter in whole.parameters():
        parameter.requires_grad_()
    return whole


def _layers(model: PreTrainedModel) -> list[Any]:
    linear = require_bitsandbytes().nn.Linear4bit
    return [module for module in model.modules() if isinstance(module, linear)]
