"""Every key of a TRL DPO configuration, and what becomes of it: fields of DPOConfig, ModelConfig and ScriptArguments.

TRL 1.16 with transformers 5.23. A test goes through the fields of the installed TRL, so that a new one is decided here.
"""

from __future__ import annotations

from scoreonce.stages.migration.mapped import Key, Verdict
from scoreonce.stages.migration.settings import WHILE_TRAINING

# TRL's loss types: our method, and the objective that stands for it in a weighted sum. Formulas compared one by one.
LOSSES = {
    "sigmoid": ("dpo", "dpo"),
    "hinge": ("hinge", "hinge"),
    "ipo": ("ipo", "ipo"),
    "exo_pair": ("exo_pair", "exo_pair"),
    "nca_pair": ("nca_pair", "nca_pair"),
    "robust": ("robust", "robust"),
    "bco_pair": ("bco_pair", "bco_pair"),
    "sppo_hard": ("sppo_hard", "sppo_hard"),
    "aot": ("aot", "aot"),
    "aot_unpaired": ("aot_pair", "aot_pair"),
    "apo_zero": ("apo_zero", "apo_zero"),
    "apo_down": ("apo_down", "apo_down"),
    "discopop": ("discopop", "discopop"),
    "sft": ("sft", "sft_tokens"),
    "sigmoid_norm": ("dpo_norm", "dpo_norm"),
}
LOSS_NOTES = {
    "sigmoid": "TRL ignores `label_smoothing` here; `label_smoothing` of `dpo` is cDPO",
    "ipo": 'log-ratios per token, `normalisation = "average"`',
    "exo_pair": "`label_smoothing` above 0, as in TRL",
    "robust": "`label_smoothing` is the share of flipped labels",
    "sppo_hard": "without the factor 1/2 of the authors' code, as in TRL",
    "aot": "sorted over the optimizer step, where TRL sorts each device's micro-batch",
    "aot_unpaired": "sorted over the optimizer step, where TRL sorts each device's micro-batch",
    "discopop": "`discopop_tau` is `tau`",
    "sft": "the mean over the step's tokens; in a weighted sum it is `sft_tokens`",
    "sigmoid_norm": "β is per token: Tülu 3 takes 5, TRL's default is 0.1",
}
SMOOTHED = ("exo_pair", "robust", "aot", "aot_unpaired")  # losses in which TRL 1.16 reads label_smoothing
LINKED = ("sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust", "discopop")  # and f_divergence_type
DIVERGENCES = {
    "reverse_kl": "reverse_kl",
    "forward_kl": "forward_kl",
    "js_divergence": "js",
    "alpha_divergence": "alpha",
}

MAPPED = {
    "output_dir": ("out", ""),
    "model_name_or_path": ("reference.model", "reference, and start of the policy"),
    "model_revision": ("reference.revision", ""),
    "model_init_kwargs": ("reference.revision, reference.dtype", "its `revision` and `dtype`; other entries are named"),
    "dtype": ("reference.dtype", "where `bf16` is off"),
    "bf16": ("reference.dtype", "on in TRL unless set: bfloat16, with the policy's weights kept in float32"),
    "fp16": ("reference.dtype", "float32: float16 needs its loss scaled, which is not done here"),
    "dataset_name": ("data.source", ""),
    "dataset_config": ("data.subset", ""),
    "dataset_train_split": ("data.split", ""),
    "dataset_test_split": ("data.test_split", "where `eval_strategy` is on"),
    "dataset_streaming": ("data.streaming", ""),
    "datasets": ("data.source, data.subset, data.split", "one dataset; a mixture is to be one file first"),
    "streaming": ("data.streaming", "of `datasets`"),
    "test_split_size": ("data.test_share", "a share of prompts, so that no prompt is on both sides"),
    "dataset_num_proc": ("data.processes", ""),
    "max_length": ("data.max_length", "prompt and completion; completions are cut at their end"),
    "per_device_train_batch_size": ("train.batch_pairs", "times accumulation and processes"),
    "gradient_accumulation_steps": ("train.batch_pairs", "a factor of it"),
    "num_train_epochs": ("train.epochs", ""),
    "max_steps": ("train.max_steps", ""),
    "learning_rate": ("train.learning_rate", ""),
    "lr_scheduler_type": ("train.scheduler", ""),
    "warmup_steps": ("train.warmup_ratio", "below 1 a share already; a number of steps is divided by `max_steps`"),
    "optim": ("train.optimizer", ""),
    "weight_decay": ("train.weight_decay", ""),
    "adam_beta1": ("train.adam_beta1", ""),
    "adam_beta2": ("train.adam_beta2", ""),
    "adam_epsilon": ("train.adam_epsilon", ""),
    "max_grad_norm": ("train.max_grad_norm", ""),
    "seed": ("train.seed", ""),
    "train_sampling_strategy": ("train.shuffle", '"random" and "sequential"'),
    "gradient_checkpointing": ("train.gradient_checkpointing", "on in TRL unless set"),
    "activation_checkpointing": ("train.gradient_checkpointing", "transformers' new name of it"),
    "router_aux_loss_coef": ("train.router_aux_loss", "0: off; the coefficient is that of the model's config"),
    "torch_compile": ("compute.compile", ""),
    "use_cpu": ("compute.device", ""),
    "fsdp": ("compute.shard", ""),
    "save_steps": ("train.checkpoint_every", "whole numbers"),
    "save_total_limit": ("train.keep_checkpoints", ""),
    "report_to": ("train.log_with", ""),
    "loss_type": ("train.method", "a list becomes `train.objective`, see below"),
    "loss_weights": ("train.objective", 'e.g. "0.8*dpo + 0.2*bco_pair"'),
    "beta": ("train.beta", ""),
    "label_smoothing": ("train.label_smoothing", "in the losses that read it"),
    "ld_alpha": ("train.method, train.ld_alpha", "`ld_dpo`, with the loss sigmoid"),
    "use_weighting": ("train.method, train.clamp", '`wpo` with clamp = "none", with the loss sigmoid'),
    "f_divergence_type": ("train.divergence", ""),
    "f_alpha_divergence_coef": ("train.divergence_alpha", "1 minus it"),
    "discopop_tau": ("train.tau", ""),
    "use_peft": ("train.lora_rank", "with the keys below"),
    "lora_r": ("train.lora_rank", ""),
    "lora_alpha": ("train.lora_alpha", ""),
    "lora_dropout": ("train.lora_dropout", "0.05 in TRL unless set"),
    "lora_target_modules": ("train.lora_targets", "without it PEFT picks by architecture, here every linear layer"),
    "lora_modules_to_save": ("train.lora_modules_to_save", ""),
    "use_rslora": ("train.lora_use_rslora", ""),
    "use_dora": ("train.lora_use_dora", ""),
    "load_in_4bit": ("reference.quantization", "nf4"),
    "bnb_4bit_quant_type": ("reference.quantization", "nf4 alone"),
    **WHILE_TRAINING,
}

_EVALUATION = "held-out pairs are scored in micro-batches of the training's own budget, and at step 0"
_LOGGING = "every step is logged, to metrics.jsonl and steps.parquet, and to `train.log_with`"
_LOADING = "token ids are read by memory map; there are no worker processes to set up"
_HUB = "the policy is a Hugging Face folder: `hf upload` takes it to the Hub"
_RESUMING = "the same command goes on from the last checkpoint, with data order and random state"
_PADDING = "rows are packed under `compute.tokens_per_microbatch` and not padded"
_PROBED = 'compute.attention = "auto" takes the fastest layout that a probe finds exact'
_MEMORY = "logits exist for one chunk at a time, and the budget bounds what is kept"
_PRECOMPUTED = "the reference is always scored first, once, and kept for every later run"

NOT_NEEDED = {
    _PRECOMPUTED: "precompute_ref_log_probs precompute_ref_batch_size",
    "dropout is always 0 in both models, so that log-probs are reproducible": "disable_dropout",
    "the reference does not move (see sync_ref_model)": "ref_model_mixup_alpha ref_model_sync_steps",
    _PADDING: "padding_free pad_to_multiple_of pad_token length_column_name remove_unused_columns",
    _PROBED: "attn_implementation",
    _EVALUATION: "eval_delay eval_on_start eval_do_concat_batches eval_use_gather_object "
    "eval_accumulation_steps per_device_eval_batch_size prediction_loss_only include_for_metrics batch_eval_metrics "
    "bf16_full_eval fp16_full_eval do_train do_eval do_predict label_names include_num_input_tokens_seen",
    _LOGGING: "logging_strategy logging_steps logging_first_step log_on_each_node logging_nan_inf_filter log_level "
    "log_level_replica disable_tqdm run_name project trackio_space_id trackio_bucket_id trackio_static_space_id",
    "a checkpoint holds all that resuming needs; the last step always writes one": "save_strategy save_only_model "
    "save_on_each_node enable_jit_checkpoint",
    _RESUMING: "resume_from_checkpoint ignore_data_skip restore_callback_states_from_checkpoint",
    _HUB: "push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision",
    _LOADING: "dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor "
    "dataloader_multiprocessing_context dataloader_in_order",
    "the last step of an epoch takes the pairs that are left": "dataloader_drop_last",
    _MEMORY: "use_liger_kernel liger_kernel_config torch_empty_cache_steps auto_find_batch_size use_cache",
    "processes are those of torchrun or accelerate; a step's loss is that of all its pairs, however they are split":
    "local_rank ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend "
    "ddp_timeout average_tokens_across_devices accelerator_config ignore_bias_buffers",
    "activations are recomputed without reentrant autograd": "gradient_checkpointing_kwargs "
    "activation_checkpointing_kwargs",
    "larger is better for accuracy and margin, smaller for the loss": "greater_is_better",
    "it is not a setting of training": "debug skip_memory_metrics lora_task_type",
    "NF4 is always with double quantisation, in the dtype of the run": "use_bnb_nested_quant bnb_4bit_quant_storage",
}  # fmt: skip

NOT_SUPPORTED = {
    "a cached reference that moves would be wrong after its first update (TR-DPO); init refuses it": "sync_ref_model",
    "a run file cannot allow a model's own code: give --trust-remote-code to each command": "trust_remote_code",
    'completions are cut at their end alone; truncation = "drop" leaves such pairs out': "truncation_mode",
    "checkpoint with train.gradient_checkpointing, or shard with compute.shard": "activation_offloading",
    "a schedule takes no further arguments than its warm-up": "lr_scheduler_kwargs",
    "an optimizer takes no further arguments than the keys of [train]": "optim_args optim_target_modules",
    "it is of the Trainer's own cross-entropy; losses of pairs have `label_smoothing`": "label_smoothing_factor",
    "no noise is added to embeddings: the policy starts exactly at the reference": "neftune_noise_alpha",
    "compute.compile takes torch's default backend": "torch_compile_backend torch_compile_mode",
    "PyTorch's defaults stand": "tf32 full_determinism",
    "the order of the pairs is that of train.seed": "data_seed",
    "compute.shard (FSDP2) has no further settings": "fsdp_config parallelism_config",
    'ZeRO-3 is compute.shard = "full", offloading compute.offload or compute.offload_optimizer': "deepspeed",
    'stacked weights of experts are adapted by lora_targets = ["all-linear", "all-experts"]': "lora_target_parameters",
    "weights in 8 bits are not read; reference.quantization has nf4": "load_in_8bit",
    "set them in the shell": "env",
}  # fmt: skip

# Keys of earlier versions of TRL and transformers, and of the scripts around them.
OLDER_MAPPED = {
    "torch_dtype": ("reference.dtype", "the earlier name of `dtype`"),
    "warmup_ratio": ("train.warmup_ratio", "since transformers 5 `warmup_steps` below 1"),
    "evaluation_strategy": ("evaluate.every", "the earlier name of `eval_strategy`"),
    "max_prompt_length": ("data.max_prompt_length", "no longer in TRL; the start of longer prompts is cut"),
}
OLDER_NOT_NEEDED = {
    _EVALUATION: "generate_during_eval",
    _PADDING: "group_by_length padding_value label_pad_token_id is_encoder_decoder",
    _PRECOMPUTED: "force_use_ref_model",
    _RESUMING: "overwrite_output_dir",
    _LOADING: "preprocessing_num_workers",
}
OLDER_NOT_SUPPORTED = {
    "it trains without a reference: methods such as simpo, orpo and cpo do; init refuses it": "reference_free",
    "a weighted sum says it: train.objective = \"dpo + 1.0*sft\" (sft: per token)": "rpo_alpha",
    "one length bounds prompt and completion together: data.max_length": "max_completion_length max_target_length",
    "adapters are reference.adapter and train.lora_continue": "model_adapter_name ref_adapter_name",
}  # fmt: skip


def _keys(mapped: dict[str, tuple[str, str]], needless: dict[str, str], unsupported: dict[str, str]) -> dict[str, Key]:
    groups: list[tuple[Verdict, dict[str, str]]] = [("not needed", needless), ("not supported", unsupported)]
    return {
        **{name: Key("maps", how, ours) for name, (ours, how) in mapped.items()},
        **{
            name: Key(verdict, why)
            for verdict, group in groups
            for why, names in group.items()
            for name in names.split()
        },
    }


CURRENT = _keys(MAPPED, NOT_NEEDED, NOT_SUPPORTED)
OLDER = _keys(OLDER_MAPPED, OLDER_NOT_NEEDED, OLDER_NOT_SUPPORTED)
KEYS = {**CURRENT, **{name: key for name, key in OLDER.items() if name not in CURRENT}}
