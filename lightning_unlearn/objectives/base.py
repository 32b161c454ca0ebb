"""What every objective shares: roles, one forward a step, a retain term, the reference model, optimiser and logging.

An objective says which statistics it needs of which role, and how its forget term follows from them. It does not know
how rows became tokens, how logits are avoided, or how many processes share a step.

Shapes: N labelled tokens of a batch, D hidden size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from lightning_unlearn import resume
from lightning_unlearn.checks import check_lengths, check_run
from lightning_unlearn.data.packing import PackedBatch
from lightning_unlearn.data.padded import PaddedRole, from_padded
from lightning_unlearn.data.share import check_train_loaders
from lightning_unlearn.fields import compares, layers_compared, layers_stored, of_head
from lightning_unlearn.layers import Layer, freeze_beyond
from lightning_unlearn.losses import Outputs, RetainTerm, check_not_negative, check_positive, retain_term, total
from lightning_unlearn.mixture import router_coefficient
from lightning_unlearn.models import Lora, add_lora, load_causal_lm, loads_apart, model_skeleton, select_trainable
from lightning_unlearn.precision import compute_dtype, warn_of_stuck_weights
from lightning_unlearn.reference import Reference
from lightning_unlearn.reference_cache import ReferenceCache
from lightning_unlearn.reference_holder import ReferenceHolder
from lightning_unlearn.role_statistics import step_outputs
from lightning_unlearn.schedule import SCHEDULES, warm_up_and_decay
from lightning_unlearn.sharding import clip_gradients, shard
from lightning_unlearn.upcoming import upcoming_batches
from lightning_unlearn.updates.base import UpdateRule, hold, start

Batch = PackedBatch | Mapping[str, PaddedRole]
TERMS = ("forget", "retain")


class Objective(L.LightningModule, ABC):
    """Base of all objectives: loss = forget_weight * forget + retain_weight * retain, from one forward a step.

    Args:
        model: checkpoint name, folder, or a ready module (used in place).
        forget_weight: factor of the forget term.
        retain: "none", "nll" (GD), "kl" (mean KL(q||p)), "reverse_kl", "ap", "hidden" or "hidden_norm"
            (hidden states that the forget term reads stay the reference's), or a `losses.RetainTerm`.
        retain_weight: factor of the retain term.
        reference: "auto", "adapter", "copy", "cache", "none", a checkpoint or a module; see
            `lightning_unlearn.reference`, and `cache_reference`.
        reference_cache: folder of reference="cache", to share between runs (default: `reference_cache` in the
            Trainer's root folder, the run's).
        router_aux_loss_coef: factor of a mixture-of-experts model's load-balancing loss (default: the model's where its
            configuration has `output_router_logits`, else 0).
        lora: train low-rank adapters instead of all weights.
        train_layers: train these decoder layers only.
        trainable: train only parameters whose names match one of these shell patterns.
        lr: learning rate.
        weight_decay: of AdamW.
        warmup_epochs: length of the linear warm-up, in epochs.
        scheduler: "linear" or "cosine" decay to 0, or "constant", after the warm-up.
        optimizer: function of the trainable parameters that returns an optimiser (default: AdamW).
        update: how the gradient of a step comes about, see `lightning_unlearn.updates` (default: by plain backward).
        gradient_checkpointing: keep layer inputs only, and repeat layers in backward.
        cpu_offload: of a sharded model, keep parameters, gradients and optimiser states in host memory between uses.
        dtype: precision of a checkpoint's weights (default: as saved).
        attn_implementation: transformers' attention name.
        trust_remote_code: run code that comes with a checkpoint.
        load_in_4bit: quantise the weights under LoRA (QLoRA), see `lightning_unlearn.four_bit`.

    Raises:
        ValueError: for an option outside its range.
    """

    saved: tuple[str, ...] = ()  # attributes that move in training, and that checkpoints hold

    def __init__(
        self,
        model: str | Path | nn.Module,
        *,
        forget_weight: float = 1.0,
        retain: str | RetainTerm = "none",
        retain_weight: float = 1.0,
        reference: str | Path | nn.Module = "auto",
        reference_cache: str | Path | None = None,
        router_aux_loss_coef: float | None = None,
        lora: Lora | None = None,
        train_layers: list[int] | None = None,
        trainable: list[str] | None = None,
        lr: float = 1e-5,
        weight_decay: float = 0.01,
        warmup_epochs: float = 1.0,
        scheduler: str = "linear",
        optimizer: Callable[[Iterable], Optimizer] | None = None,
        update: UpdateRule | None = None,
        gradient_checkpointing: bool = False,
        cpu_offload: bool = False,
        dtype: str | None = None,
        attn_implementation: str | None = None,
        trust_remote_code: bool = False,
        load_in_4bit: bool = False,
    ) -> None:
        super().__init__()
        given = {"model": model, "retain": retain, "reference": reference, "update": update and repr(update)}
        self.save_hyperparameters(ignore=[*given, "reference_cache", "optimizer", "lora"])
        check_positive("lr", lr)
        check_not_negative("warmup_epochs", warmup_epochs)
        check_not_negative("router_aux_loss_coef", router_aux_loss_coef or 0.0)
        if load_in_4bit and lora is None and loads_apart(model):
            raise ValueError("lora must be given with load_in_4bit: weights in 4 bits cannot be trained, got None")
        if scheduler not in SCHEDULES:
            raise ValueError(f"scheduler must be one of {', '.join(SCHEDULES)}, got {scheduler!r}")
        # Modules given as arguments must not become submodules under a second name, in parameters and checkpoints.
        object.__setattr__(self, "source", model)
        object.__setattr__(self, "reference", reference)
        self._reference = ReferenceHolder(reference, reference_cache)
        self.forget_weight = forget_weight
        self.retain = retain_term(retain)
        self.retain_weight = retain_weight
        self.router_aux_loss_coef = router_aux_loss_coef
        self.lora = Lora(**lora) if isinstance(lora, Mapping) else lora
        self.train_layers = train_layers
        self.trainable = trainable
        self.lr = lr
        self.weight_decay = weight_decay
        self.warmup_epochs = warmup_epochs
        self.scheduler = scheduler
        self.optimizer = optimizer
        self.update = update
        self.gradient_checkpointing = gradient_checkpointing
        self.cpu_offload = cpu_offload
        self.load_options: dict[str, Any] = {"dtype": dtype, "attn_implementation": attn_implementation}
        self.load_options |= {"trust_remote_code": trust_remote_code, "load_in_4bit": load_in_4bit}
        self.model: nn.Module | None = model if isinstance(model, nn.Module) else None
        self.configured = False
        self._router_coefficient = 0.0
        self._step_open = False  # whether gradients wait for the rest of their optimiser step
        self._step_losses: dict[str, Tensor] = {}  # of its micro-batches so far, as shares of the step's
        self._held: list[Batch] = []  # micro-batches of the step so far, which an update rule gets at its end
        self._epoch_start: Tensor | None = None  # the random state that the epoch's batches were drawn from
        self._resumed: tuple[dict[str, Any], list[dict[str, Any]]] | None = None
        self.strict_loading = self.lora is None  # with LoRA a checkpoint holds the adapters alone
        self.hparams.update(resume.plain({**given, "reference_cache": reference_cache}, self.lora))

    # -- what an objective says ---------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def forget_statistics(self) -> Mapping[str, tuple[str, ...]]:
        """What the forget term needs, by role: fields of `TokenStatistics`, "hidden" or "reference_hidden"."""

    @property
    def forget_layers(self) -> tuple[Layer, ...]:
        """Layers whose hidden states the forget term reads, where it needs any; see `layers.layer_index`."""
        return ()

    @abstractmethod
    def forget_loss(self, outputs: Outputs) -> Tensor:
        """Return the unweighted forget term, a scalar."""

    def default_trainable(self) -> list[str] | None:
        """Patterns of what trains where `lora`, `train_layers` and `trainable` leave it open, or None for all."""
        return None

    def prepare(self, batch: PackedBatch) -> PackedBatch:
        """Change what is labelled, where an objective needs other tokens than the answers; harmless when repeated."""
        return batch

    # -- losses -------------------------------------------------------------------------------------------------------

    @property
    def statistics(self) -> dict[str, tuple[str, ...]]:
        """Statistics that the objective needs, by role: its forget term's and its retain term's."""
        needed = dict(self.forget_statistics)
        for role, fields in (self.retain.roles if self.retain else {}).items():
            needed[role] = tuple(dict.fromkeys((*needed.get(role, ()), *fields)))
        return needed

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Layers whose hidden states are read, by the forget term or by the retain term."""
        return tuple(dict.fromkeys((*self.forget_layers, *(self.retain.layers if self.retain else ()))))

    @property
    def roles(self) -> tuple[str, ...]:
        """Roles that a batch must hold."""
        return tuple(self.statistics)

    @property
    def weights(self) -> dict[str, float]:
        """Factors of the terms, as they are now."""
        return {"forget": self.forget_weight, "retain": self.retain_weight}

    @property
    def needs_reference(self) -> bool:
        """Whether any term compares with the reference model."""
        return any(compares(fields) for fields in self.statistics.values())

    def losses(self, batch: Batch, *, terms: Collection[str] = TERMS) -> dict[str, Tensor]:
        """Compute the terms of the objective, unweighted, and "loss", their weighted sum; works without a Trainer.

        Args:
            batch: a `PackedBatch`, or role -> {"input_ids", "attention_mask", "labels"} of padded tensors [B, L] with
                labels aligned (not shifted) and -100 where ignored. Extra roles are ignored. Means are over the whole
                optimiser step where the batch carries its counts (our loaders attach them), and over this batch
                otherwise.
            terms: those of "forget" and "retain" that are wanted; the model reads their roles alone.

        Returns:
            {"loss", "forget", "retain" where there is a retain term, "router_aux" where a mixture-of-experts model has
            a load-balancing loss that counts}, scalars.

        Raises:
            ValueError: if a role is missing.
        """
        self.configure_model()
        forget, retain = "forget" in terms, "retain" in terms and self.retain is not None
        roles = {*(self.forget_statistics if forget else ()), *(self.retain.roles if retain else ())}
        outputs = self.outputs(self.packed(batch).select(roles))
        found = {"forget": self.forget_loss(outputs)} if forget else {}
        if retain:
            found["retain"] = self.retain.loss(outputs)
        if outputs.router_aux is not None:
            found["router_aux"] = outputs.router_aux
        return {"loss": total(found, self.weights), **found}

    def packed(self, batch: Batch) -> PackedBatch:
        """Pack a batch, keep the roles of this objective, and label what it needs."""
        if not isinstance(batch, PackedBatch | Mapping):
            raise ValueError(f"batch must be a PackedBatch or a dict of roles, got {type(batch).__name__}")
        have = batch.roles if isinstance(batch, PackedBatch) else tuple(batch)
        if not set(self.roles) <= set(have):
            raise ValueError(f"batch must hold the roles {self.roles} of {type(self).__name__}, got {have}")
        if not isinstance(batch, PackedBatch):
            batch = from_padded({role: batch[role] for role in self.roles})
        return self.prepare(batch.select(self.roles))

    def outputs(self, batch: PackedBatch) -> Outputs:
        """Run one forward over all roles, and compute what each role's terms need."""
        reference = self.reference_model() if self._compared(batch.roles) else None
        aux = self._router_coefficient
        return step_outputs(self.model, batch, self.statistics, self.layers, reference, router_aux=aux)

    def _compared(self, roles: Iterable[str]) -> list[str]:
        return [role for role in roles if compares(self.statistics[role])]

    def reference_model(self) -> Reference | ReferenceCache:
        """Return the reference model, made the first time it is asked for (at the latest before training starts).

        Raises:
            ValueError: if it cannot be made (a cache is made by `cache_reference`), or its head is of another kind than
                the model's.
        """
        return self._reference.get(self.model, layers_compared(self.statistics, self.layers))

    def cache_reference(self, batches: Iterable[Batch], folder: str | Path | None = None) -> None:
        """Store what the model says, as it is now, of every row that `losses` will compare; for reference="cache".

        A Trainer's `setup` does it for all batches to come. What the folder holds already, of the same weights,
        configuration, precision and tokens, is not computed again. Further calls add rows; all processes must call it.

        Args:
            batches: what `losses` takes.
            folder: see `reference_cache`, which is the default.

        Raises:
            ValueError: for another `reference`, if no folder is given, a resumed run began from another model, or rows
                are missing and the model has been trained.
        """
        if not self._reference.caches:
            raise ValueError(f'reference must be "cache" for cache_reference, got {self.hparams["reference"]!r}')
        if not self.needs_reference:
            return
        self.configure_model()
        layers = layers_stored(self.statistics, self.layers)
        trainer = getattr(self, "_trainer", None)
        with nullcontext() if trainer is None else trainer.precision_plugin.forward_context():
            self._reference.cache(self.model, layers, map(self.packed, batches), self._compared(self.roles), folder)

    # -- Lightning ----------------------------------------------------------------------------------------------------

    def configure_model(self) -> None:
        """Load the model, add adapters, choose what trains, shard; the first call does it all."""
        if self.configured:
            return
        self.configured = True
        load = load_causal_lm if self.device_mesh is None or not loads_apart(self.source) else model_skeleton
        self.model = load(self.source, **self.load_options)
        if self.lora is not None:
            self.model = add_lora(self.model, self.lora)
        self._router_coefficient = router_coefficient(self.model, self.router_aux_loss_coef)
        left_open = self.lora is None and self.train_layers is None and self.trainable is None
        patterns = self.default_trainable() if left_open else self.trainable
        select_trainable(self.model, layers=self.train_layers, patterns=patterns)
        if not any(map(of_head, self.statistics.values())):
            freeze_beyond(self.model, self.layers)
        if self.gradient_checkpointing:
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if self.device_mesh is None:  # of Lightning's ModelParallelStrategy
            return
        if self.needs_reference and not self._reference.caches:
            self.reference_model()  # copied while the weights are whole
        options = {"cpu_offload": self.cpu_offload, "compute_dtype": compute_dtype(getattr(self, "_trainer", None))}
        for model in (self.model, *self._reference.copies):
            shard(model, self.device_mesh, checkpoint=self.source, **options)

    def setup(self, stage: str) -> None:
        """Check what the run is made of, and keep the initial weights where they will be needed."""
        check_run(self)
        self.configure_model()
        if stage == "fit":
            check_lengths(self.trainer)
            self.model.train()  # from_pretrained returns a model in eval mode, and Lightning leaves it so
        if self.needs_reference and self._reference.caches:
            if stage != "predict":
                self._place()
                batches = filter(None, upcoming_batches(self.trainer, stage))  # but for those without rows
                self.cache_reference(batches, self._reference.folder_of(self.trainer))
        elif self.needs_reference:
            self.reference_model()
            self._reference.convert(self.trainer.precision_plugin.convert_module)

    def _place(self) -> None:
        """Give the model the run's precision and device, before Lightning does."""
        self.trainer.precision_plugin.convert_module(self.model)
        if self.device_mesh is None or not self.cpu_offload:
            self.model.to(self.trainer.strategy.root_device)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Choose roles and labels on the host, so that nothing waits for the device."""
        whole = isinstance(batch, PackedBatch) or (isinstance(batch, Mapping) and set(self.roles) <= set(batch))
        if self._reference.caches and whole:
            return self._reference.attach(self.packed(batch), self._compared(self.roles))
        return self.packed(batch) if isinstance(batch, PackedBatch) else batch

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Compute the losses of a micro-batch, and log those of its optimiser step so far; or hold it for the rule."""
        if self.update is None:
            losses = self.losses(batch)
            earlier, share = self._step_losses if self._step_open else {}, 1 / self.trainer.accumulate_grad_batches
            self._step_losses = {k: earlier.get(k, 0.0) + value.detach() * share for k, value in losses.items()}
            self._step_open = True
        else:
            losses = self._step_losses = hold(self, batch)
        logged = {f"train/{name}": value for name, value in self._step_losses.items()}
        self.log_dict(logged, prog_bar=True, batch_size=1)
        return losses.get("loss", torch.zeros(()))  # of a micro-batch that is held none is known yet

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        """Clear gradients as Lightning does, but for those that an update rule has just left."""
        if self.update is None:
            super().optimizer_zero_grad(epoch, batch_idx, optimizer)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Backpropagate a micro-batch's loss, unless an update rule has done so."""
        if self.update is None:
            super().backward(loss, *args, **kwargs)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the losses on held-out or on the training rows."""
        self._log_losses("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the losses on the test loader; the protocols run in a callback."""
        self._log_losses("test", batch)

    def _log_losses(self, stage: str, batch: Batch) -> None:
        if not batch:  # without rows
            return
        losses = {f"{stage}/{name}": value for name, value in self.losses(batch).items()}
        rows = len(batch) if isinstance(batch, PackedBatch) else sum(len(x["input_ids"]) for x in batch.values())
        self.log_dict(losses, batch_size=rows, sync_dist=True)

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW (or `optimizer`) on the trainable parameters, with warm-up and decay by step.

        Raises:
            ValueError: if the Trainer has neither a last epoch nor a last step.
        """
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        make = self.optimizer or (lambda chosen: AdamW(chosen, lr=self.lr, weight_decay=self.weight_decay))
        optimizer = make(parameters) if self.update is None else self.update.make_optimizer(make, parameters)
        warn_of_stuck_weights(optimizer)
        return warm_up_and_decay(self.trainer, optimizer, self.scheduler, self.warmup_epochs)

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip as the Trainer says, sharded gradients too."""
        if self.device_mesh is None or not gradient_clip_val:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        kind = "value" if gradient_clip_algorithm == "value" else "norm"
        clip_gradients(self.parameters(), **{kind: float(gradient_clip_val)})

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Note that the gradients so far are about to be used."""
        self._step_open = False

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save what an exact resume needs, see `lightning_unlearn.resume`."""
        state = resume.training_state(
            self, step_open=self._step_open, epoch_start=self._epoch_start, held=self._held if self.update else None
        )
        checkpoint["training_state"] = {**state, "losses": self._step_losses}
        checkpoint["objective"] = {name: getattr(self, name) for name in self.saved}
        self._reference.save(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the initial weights where they will be needed, and what training continues from.

        Raises:
            ValueError: if the checkpoint lacks a parameter that trains, or its run began from another model than the
                reference cache.
        """
        resume.check_weights(self, checkpoint)
        for name, value in checkpoint.get("objective", {}).items():
            setattr(self, name, value)
        if self._reference.caches:
            self._reference.resume(checkpoint, self.model)
        elif self.needs_reference:
            self.reference_model()
        self._resumed = (checkpoint.get("training_state", {}), resume.loader_position(checkpoint))

    def on_train_start(self) -> None:
        """Check what the loaders were made for, and continue a resumed run where it was."""
        check_train_loaders(self.trainer)
        start(self)
        if self._resumed is not None:
            self._held = resume.held_batches(self, self._resumed[0])
            self._epoch_start = resume.restore(self, *self._resumed)
            self._step_open = bool(self._resumed[0].get("gradients"))
            self._step_losses = {k: v.to(self.device) for k, v in self._resumed[0].get("losses", {}).items()}
            self._resumed = None

    def on_train_epoch_start(self) -> None:
        """Note what the order of a DataLoader follows from."""
        self._epoch_start = resume.start_epoch(self)

    def state_dict(self, *args, **kwargs) -> dict[str, Any]:
        """With LoRA, the adapters alone: the base model is not trained, and not saved again."""
        state = super().state_dict(*args, **kwargs)
        return state if self.lora is None else resume.trained_alone(self, state)
