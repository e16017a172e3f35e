"""AdamW on a table of word embeddings that works, at each step, on the rows of the batch's words alone.

A step touches a few hundred of tens of thousands of rows. AdamW moves the others too: their running means fade, which
still pulls at them, and weight decay shrinks them. What such idle steps do to a row has a closed form, so a row is left
as it is until its word comes up again, or until the table is read as a whole. With m and v a row's running means after
step a, and P(a, b) the product of 1 - lr * weight_decay over the steps a+1 to b, its weights after step b are

    P(a, b) w  -  sum over t from a+1 to b of  P(t, b) lr_t (beta1^(t-a) m / c_t) / (sqrt(beta2^(t-a) v / d_t) + eps)

with c_t = 1 - beta1^t and d_t = 1 - beta2^t. If sqrt(beta2^(t-a) / d_t) is taken out of the denominator, what is left
of eps in it is eps * sqrt(d_t / beta2^(t-a)), which changes slowly. All steps take its weighted mean instead, so that
m / (sqrt(v) + mean) stands before the sum. That is the only approximation, and to first order in eps it is exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from stillhouse.errors import PlanError
from stillhouse.phases import phase

_PREDICT_WORDS = ("ForMaskedLM", "ForCausalLM", "ForPreTraining", "LMHeadModel", "ForConditionalGeneration")
_HORIZON = 1000
"""After so many steps every row is brought up to date, so that what is remembered of past steps stays small."""
_SLICE = 4096
"""Rows brought up to date at once when all are, so that this needs little memory."""


def word_table(model: nn.Module) -> nn.Embedding:
    """The model's table of word embeddings. Raises `PlanError` if its rows cannot be updated one by one."""
    name = type(model).__name__
    find: Any = getattr(model, "get_input_embeddings", None)
    table = None if find is None else find()
    if not isinstance(table, nn.Embedding) or table.max_norm is not None or table.scale_grad_by_freq or (
            not table.weight.requires_grad):
        raise PlanError(f"{name} has no plain, trained table of word embeddings whose rows could be updated one by one")
    held = [path for path, parameter in model.named_parameters(remove_duplicate=False) if parameter is table.weight]
    if len(held) > 1:
        raise PlanError(f"the word embeddings of {name} are used in several places ({', '.join(held)}), so that a step "
                        "touches every row")
    if name.endswith(_PREDICT_WORDS):  # some families read the table for that without saying so
        raise PlanError(f"{name} predicts words, so that a step may touch the word embeddings of every word")
    return table


@contextmanager
def only_touched_rows(table: nn.Embedding, optimizer: AdamW) -> Iterator[None]:
    """Inside, ``optimizer`` updates of ``table``, which it holds, the rows that a step touches, and others when needed.

    Rows are up to date whenever the table's own forward reads them, and all are when the inside is left, in
    ``table.state_dict()`` and in ``optimizer.state_dict()``, which is that of an AdamW that updates everything. Nothing
    else may read or write the table: its gradient would be dense, at which the first step raises `PlanError`.
    """
    rows = _Rows(table.weight, optimizer)
    was_sparse, table.sparse = table.sparse, True
    with ExitStack() as hooks:
        for handle in (table.register_forward_pre_hook(rows.before_forward, with_kwargs=True),
                       table.register_state_dict_pre_hook(rows.finish),
                       optimizer.register_step_pre_hook(rows.before_step),
                       optimizer.register_state_dict_pre_hook(rows.finish),
                       optimizer.register_load_state_dict_post_hook(rows.after_load)):
            hooks.callback(handle.remove)
        try:
            yield
        finally:
            rows.finish()
            table.sparse = was_sparse


@final
class _Rows:
    """One table: which step each row has been brought to, and what the steps since would have done to it."""

    def __init__(self, weight: Tensor, optimizer: AdamW) -> None:
        self.weight, self.optimizer = weight, optimizer
        group = self._group()
        assert not group["amsgrad"] and not group["maximize"]
        self.idle = _IdleSteps(group["betas"], group["eps"], weight.device)
        self.step_of_V = torch.zeros(len(weight), dtype=torch.long, device=weight.device)
        self.after_load(optimizer)

    def before_forward(self, table: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Bring the rows that are about to be read up to date."""
        ids: Tensor = args[0] if args else kwargs["input"]
        with phase("optimizer"):
            self._bring(ids.flatten())

    @torch.no_grad()
    def before_step(self, optimizer: Any, *_: Any) -> None:
        """Update the rows with a gradient, and take the gradient away, so that AdamW itself passes the table over."""
        gradient, self.weight.grad = self.weight.grad, None
        if gradient is None:
            return
        if not gradient.is_sparse:
            raise PlanError("the table of word embeddings has a gradient in every row, so something beside its own "
                            "forward uses it; update all rows (embedding_updates: all)")
        gradient = gradient.coalesce()
        rows_N, gradient_NH = gradient.indices()[0], gradient.values()
        self._bring(rows_N)
        self._update(rows_N, gradient_NH)
        if self.idle.is_full:
            self.finish()

    @torch.no_grad()
    def finish(self, *_: Any) -> None:
        """Bring every row up to date, and let the optimizer's state say so."""
        if self.idle.num_steps == 0:
            return
        for rows_N in torch.arange(len(self.weight), device=self.weight.device).split(_SLICE):
            self._bring(rows_N)
        self._state()["step"].fill_(self.idle.step)
        self.idle.begin(self.idle.step)

    def after_load(self, optimizer: Any) -> None:
        """Every row is as the optimizer's state says, which may have been loaded."""
        state = self.optimizer.state.get(self.weight, {})
        self.idle.begin(int(state["step"]) if state else 0)
        self.step_of_V.fill_(self.idle.step)

    def _group(self) -> dict[str, Any]:
        """The parameter group that the table is in; loading a state makes new ones."""
        return next(group for group in self.optimizer.param_groups
                    if any(parameter is self.weight for parameter in group["params"]))

    def _state(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.optimizer.state[self.weight]
        if not state:
            state["step"] = torch.zeros((), device=self.weight.device if self._group()["fused"] else None)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(self.weight), torch.zeros_like(self.weight)
        return state

    @torch.no_grad()
    def _bring(self, rows_N: Tensor) -> None:
        """Do to these rows what the steps did that they have missed."""
        rows_N = rows_N[self.step_of_V[rows_N] < self.idle.step].unique()
        if not len(rows_N):
            return
        state = self._state()
        shrink, pull, eps, fade_mean, fade_square = self.idle.since(self.step_of_V[rows_N], self.weight.dtype)
        mean_NH, square_NH = state["exp_avg"][rows_N], state["exp_avg_sq"][rows_N]
        moved_NH = self.weight[rows_N].mul_(shrink).sub_(mean_NH / square_NH.sqrt().add_(eps) * pull)
        self._write(rows_N, moved_NH, mean_NH.mul_(fade_mean), square_NH.mul_(fade_square))

    def _update(self, rows_N: Tensor, gradient_NH: Tensor) -> None:
        """A step of AdamW on rows that are up to date; for all others it is an idle one."""
        group, state = self._group(), self._state()
        (beta1, beta2), rate, decay = group["betas"], float(group["lr"]), group["weight_decay"]
        self.idle.add(rate, decay)
        step = self.idle.step
        mean_NH = state["exp_avg"][rows_N].lerp_(gradient_NH, 1 - beta1)
        square_NH = state["exp_avg_sq"][rows_N].mul_(beta2).addcmul_(gradient_NH, gradient_NH, value=1 - beta2)
        denominator_NH = square_NH.sqrt().div_(math.sqrt(1 - beta2**step)).add_(group["eps"])
        moved_NH = self.weight[rows_N].mul_(1 - rate * decay)
        moved_NH.addcdiv_(mean_NH, denominator_NH, value=-rate / (1 - beta1**step))
        self._write(rows_N, moved_NH, mean_NH, square_NH)

    def _write(self, rows_N: Tensor, weight_NH: Tensor, mean_NH: Tensor, square_NH: Tensor) -> None:
        state = self._state()
        self.weight.index_copy_(0, rows_N, weight_NH)
        state["exp_avg"].index_copy_(0, rows_N, mean_NH)
        state["exp_avg_sq"].index_copy_(0, rows_N, square_NH)
        self.step_of_V[rows_N] = self.idle.step


@final
class _IdleSteps:
    """What the steps since any earlier one do to a row that has no gradient in them.

    ``factors`` is (5, steps) in float64, with a column for each step after which a row may have been left: what its
    weights are multiplied by; what m / (sqrt(v) + eps) is multiplied by, before it is taken off them, and that times
    the eps in it; what m is multiplied by, and v.
    """

    def __init__(self, betas: tuple[float, float], eps: float, device: torch.device) -> None:
        self.betas, self.eps = betas, eps
        self.factors = torch.empty(5, _HORIZON + 1, dtype=torch.float64, device=device)
        self.begin(0)

    def begin(self, step: int) -> None:
        """Forget all; ``step`` steps are done, and every row is where they brought it."""
        self.step, self.num_steps = step, 0
        self.factors[:] = self.factors.new_tensor([1.0, 0.0, 0.0, 1.0, 1.0]).unsqueeze(1)

    @property
    def is_full(self) -> bool:
        """Whether no further step can be remembered."""
        return self.num_steps == _HORIZON

    def add(self, rate: float, weight_decay: float) -> None:
        """One more step, at this learning rate."""
        shrink, pull, eps_pull, fade_mean, fade_square = self.factors[:, :self.num_steps + 1]
        self.step, self.num_steps = self.step + 1, self.num_steps + 1
        (beta1, beta2), kept = self.betas, 1 - rate * weight_decay
        fade_mean *= beta1
        fade_square *= beta2
        root = fade_square.sqrt()
        correction = math.sqrt(1 - beta2**self.step)
        new_pull = fade_mean / root * (rate * correction / (1 - beta1**self.step))
        shrink *= kept
        pull.mul_(kept).add_(new_pull)
        eps_pull.mul_(kept).add_(new_pull / root, alpha=self.eps * correction)

    def since(self, steps_N: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """For rows left after these steps, each (N, 1): the factors of weight and pull, eps, the factors of m and v."""
        shrink, pull, eps_pull, fade_mean, fade_square = self.factors[:, steps_N - (self.step - self.num_steps)]
        eps = torch.where(pull > 0, eps_pull / pull, self.eps)
        columns = torch.stack([shrink, pull, eps, fade_mean, fade_square]).to(dtype).unsqueeze(-1)
        return tuple(columns)
