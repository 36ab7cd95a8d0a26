"""What runs a language model for lm_eval: transformers or vLLM, with smaller batches where memory runs out."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import torch

from nan_merge.core.errors import UserError
from nan_merge.core.names import first_of
from nan_merge.core.text import read_mapping
from nan_merge.layouts.adapters import is_adapter
from nan_merge.layouts.names import count_phrase, join_first
from nan_merge.layouts.vision_language import SIZES
from nan_merge.models.harness.tasks import library

PROCESSORS = ("processor_config.json", "preprocessor_config.json")  # of a model that takes pictures
T = TypeVar("T")


def load_model(folder: Path, device: str, dtype: str, settings: Mapping[str, Any], pictures: bool = False) -> Any:
    """Load a language model with its tokenizer, or with its processor if `pictures`; `settings` are `harness:` of the suite.

    Raises UserError for an adapter, a model that takes no pictures if they are asked for, for GPUs that are missing, and if the
    chat template that is asked for is missing, tensors are missing or do not fit config.json.
    """
    refuse_adapter(folder)
    library()
    if pictures:
        _check_takes_pictures(folder)
    file = folder / "config.json"
    two = file.is_file() and bool(read_mapping(file).get("is_encoder_decoder"))
    if two and settings.get("backend") == "vllm":
        raise UserError(f"{folder}: vLLM runs no model of an encoder and a decoder; write `scoring: backend: hf`")
    make = (_vllm if settings.get("backend") == "vllm" else functools.partial(_transformers, device, two))(settings, pictures)
    if (wanted := settings.get("parallelize", 0)) > (found := torch.cuda.device_count()):
        raise UserError(
            f"scoring: parallelize: {wanted} GPUs are to hold the layers of {folder}, and this job sees {found}; ask for as many"
            " (resource `gpu` of rule evaluate_benchmark), or take another number"
        )

    torch.set_num_threads(1)
    try:
        model = make(pretrained=str(folder), dtype=dtype, add_bos_token=settings.get("bos"), trust_remote_code=False)
    except (OSError, ValueError, RuntimeError, AssertionError) as error:
        first = str(error).strip().splitlines()[:1]
        raise UserError(f"{folder}: transformers cannot load this language model: {''.join(first)}; prepare it again") from None
    if "parallelize" in settings:
        refuse_offloaded(folder, getattr(model.model, "hf_device_map", {}))
    model.origin = folder
    if settings.get("chat_template") and not (model.processor if pictures else model.tokenizer).chat_template:
        part, place = ("processor", "processor_config.json") if pictures else ("tokenizer", "tokenizer_config.json")
        raise UserError(
            f"{folder}: its {part} has no chat template, which `harness: chat_template: true` of the suite asks for; expected"
            f" it in {place} or chat_template.jinja. Add it to the base, or write `chat_template: false`"
        )
    if pictures:
        _check_fits_processor(folder, model)
    return model


def _check_takes_pictures(folder: Path) -> None:
    """Raise a UserError for a model without the config of a vision tower, or without a processor."""
    if "vision_config" not in read_mapping(folder / "config.json"):
        raise UserError(
            f"{folder}: config.json has no `vision_config`, so transformers finds no model there that takes pictures. A LLaVA in"
            " its original names is converted by `nan-merge convert`; a language model takes tasks without pictures only"
        )
    if not any((folder / name).is_file() for name in PROCESSORS):
        raise UserError(
            f"{folder}: no processor, which prepares the pictures; expected {' or '.join(PROCESSORS)}. Copy them, and"
            " chat_template.jinja, from the model that it was made from"
        )


def _check_fits_processor(folder: Path, model: Any) -> None:
    """Raise a UserError if config.json and the processor differ in the token of a picture, or in the sizes of its parts."""
    token = getattr(model, "image_token", "")
    if (written := getattr(model.processor, "image_token", token)) != token:
        raise UserError(
            f"{folder}: the token of pictures, number {model.image_token_id} of config.json, is {token!r} in the tokenizer, and"
            f" the processor writes {written!r}; expected the same. Take all three of one model"
        )
    expected = getattr(getattr(model, "config", None), SIZES, None)
    if (found := getattr(model.processor.image_processor, SIZES, None)) != expected:
        raise UserError(
            f"{folder}: `{SIZES}` is {found} in the processor, which cuts pictures by it, and {expected} in config.json; expected"
            " the same. Take both of one model"
        )


def refuse_adapter(folder: Path) -> None:
    """Raise a UserError for an adapter, which is no whole model."""
    if is_adapter(folder):
        raise UserError(
            f"{folder}: is a LoRA adapter; expected a whole model. Fold it into its base first: nan-merge merge --base BASE"
            f" --expert {folder} --method weight_averaging --output FOLDER"
        )


def refuse_offloaded(folder: Path, places: Mapping[str, Any]) -> None:
    """Raise a UserError for layers that accelerate put beside the GPUs, as it does without a word where their memory is short."""
    outside = [f"'{layers}' on {place}" for layers, place in places.items() if str(place) in ("cpu", "disk", "meta")]
    if outside:
        raise UserError(
            f"{folder}: does not fit the GPUs of this job: {len(outside)} of {len(places)} parts would run beside them"
            f" ({first_of(outside)}), many times slower; take more GPUs (`scoring: parallelize:`) or GPUs with more memory, or"
            " `scoring: precision: bfloat16`"
        )


def _transformers(device: str, two: bool, settings: Mapping[str, Any], pictures: bool) -> Callable[..., Any]:
    if pictures:
        from lm_eval.models.hf_vlms import HFMultimodalLM

        made = functools.partial(_whole(HFMultimodalLM), convert_img_format=True)
    else:
        from lm_eval.models.huggingface import HFLM

        made = functools.partial(_whole(HFLM), backend="seq2seq" if two else "causal")
    return functools.partial(made, device=device, parallelize="parallelize" in settings)


def _whole(kind: Any) -> Any:
    """Return a class of lm_eval that refuses weights that no file has: transformers draws them at random with a warning.

    transformers ties what is tied as it loads. lm_eval ties once more, by the config, and the T5Config of transformers says that
    every T5 is tied: the head of Flan-T5 would be lost.
    """

    class Whole(kind):
        AUTO_MODEL_CLASS: Any

        def _create_model(self, *arguments: Any, **options: Any) -> None:
            auto = self.AUTO_MODEL_CLASS
            self.AUTO_MODEL_CLASS = SimpleNamespace(from_pretrained=functools.partial(_load_whole, auto))
            super()._create_model(*arguments, **options)
            self.AUTO_MODEL_CLASS = auto
            self._model.tie_weights = lambda: None

    return Whole


def _load_whole(auto: Any, folder: str, **options: Any) -> Any:
    model, report = auto.from_pretrained(folder, output_loading_info=True, **options)
    if missing := sorted(report["missing_keys"]):
        raise UserError(
            f"{folder}: its files lack {count_phrase(len(missing), 'tensor')} of the network of config.json"
            f" ({type(model).__name__}): {join_first(missing)}; expected all, since answers of weights that were drawn at random"
            " say nothing. Fetch or make the model again, or correct config.json"
        )
    return model


def _vllm(settings: Mapping[str, Any], pictures: bool) -> Callable[..., Any]:
    """Return the maker of a model that vLLM runs, its heads spread over GPUs."""
    if not find_spec("vllm"):
        raise UserError(
            "scoring: backend: vLLM is not installed here, which `backend: vllm` needs; run with `--sdm conda`, which makes the"
            " environment envs/vllm.yaml, or write `backend: hf`"
        )
    if pictures:
        from lm_eval.models.vllm_vlms import VLLM_VLM as VLLM
    else:
        from lm_eval.models.vllm_causallms import VLLM

    return functools.partial(VLLM, tensor_parallel_size=settings.get("parallelize", 1), seed=0)


def halved_until_it_fits(attempt: Callable[[int], T], batch_size: int, say: Callable[[str], object]) -> tuple[T, int]:
    """Call `attempt` with a batch size that is halved as long as memory runs out; return its result and the batch size.

    Raises UserError if one example at a time does not fit.
    """
    while True:
        try:
            return attempt(batch_size), batch_size
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if batch_size == 1:
            raise UserError(
                "out of memory with one example at a time: the model does not fit this device; take `scoring: precision:"
                " bfloat16`, a device with more memory, or `scoring: device: cpu`"
            )
        batch_size //= 2
        say(f"out of memory: going on with batches of {batch_size}")


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
