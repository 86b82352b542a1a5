from typing import Any, Literal, Optional, Union, final

from . import Array, Backend, GradDtype, IgnoreIndex, Weight, _Reduction, _Smoothing

BACKENDS: list[str]
BUILD: str
DTYPES: list[str]

@final
class Summary:
    @property
    def loss(self) -> float: ...
    @property
    def z_loss(self) -> float: ...
    @property
    def weight(self) -> float: ...
    @property
    def counted(self) -> int: ...
    @property
    def correct(self) -> int: ...

@final
class CrossEntropy:
    def __new__(
        cls,
        weight: Optional[Weight] = None,
        *,
        ignore_index: IgnoreIndex = -100,
        reduction: _Reduction = "mean",
        label_smoothing: float = 0.0,
        smoothing: _Smoothing = "all_classes",
        z_loss: float = 0.0,
        focal_gamma: float = 0.0,
        logit_scale: float = 1.0,
        softcap: Optional[float] = None,
        empty_mean: Literal["nan", "zero"] = "nan",
        backend: Optional[Backend] = None,
        parallelism: Literal["rayon", "serial"] = "rayon",
    ) -> CrossEntropy: ...
    def loss(
        self,
        input: Array,
        target: Union[Array, int],
        *,
        loss_mask: Optional[Array] = None,
        row_weights: Optional[Array] = None,
        denominator: Optional[float] = None,
    ) -> Any: ...
    def loss_and_grad(
        self,
        input: Array,
        target: Union[Array, int],
        *,
        out: Optional[Array] = None,
        grad_dtype: Optional[GradDtype] = None,
        loss_mask: Optional[Array] = None,
        row_weights: Optional[Array] = None,
        upstream: Optional[Array] = None,
        upstream_scalar: Optional[float] = None,
        denominator: Optional[float] = None,
    ) -> tuple[Any, Any]: ...
    def run(
        self,
        input: Array,
        target: Union[Array, int],
        *,
        grad: Optional[Array] = None,
        accumulate: bool = False,
        losses: Optional[Array] = None,
        lse: Optional[Array] = None,
        target_log_probabilities: Optional[Array] = None,
        entropies: Optional[Array] = None,
        argmax: Optional[Array] = None,
        argmax_probabilities: Optional[Array] = None,
        target_ranks: Optional[Array] = None,
        probabilities: Optional[Array] = None,
        log_probabilities: Optional[Array] = None,
        loss_mask: Optional[Array] = None,
        row_weights: Optional[Array] = None,
        upstream: Optional[Array] = None,
        upstream_scalar: Optional[float] = None,
        denominator: Optional[float] = None,
    ) -> Summary: ...
    def hessian_vector_product(
        self,
        input: Array,
        target: Union[Array, int],
        direction: Array,
        *,
        out: Optional[Array] = None,
        loss_mask: Optional[Array] = None,
        row_weights: Optional[Array] = None,
        upstream: Optional[Array] = None,
        upstream_scalar: Optional[float] = None,
        denominator: Optional[float] = None,
    ) -> Any: ...
    def jvp(
        self,
        input: Array,
        target: Union[Array, int],
        direction: Array,
        *,
        derivatives: Optional[Array] = None,
        loss_mask: Optional[Array] = None,
        row_weights: Optional[Array] = None,
        upstream: Optional[Array] = None,
        upstream_scalar: Optional[float] = None,
        denominator: Optional[float] = None,
    ) -> float: ...

def softmax(
    input: Array,
    dim: int = -1,
    *,
    out: Optional[Array] = None,
    backend: Optional[Backend] = None,
    parallelism: Literal["rayon", "serial"] = "rayon",
) -> Any: ...
def log_softmax(
    input: Array,
    dim: int = -1,
    *,
    out: Optional[Array] = None,
    backend: Optional[Backend] = None,
    parallelism: Literal["rayon", "serial"] = "rayon",
) -> Any: ...
def after_fork() -> None: ...

# A capsule for `jax.ffi.register_ffi_target`.
def xla_cross_entropy() -> Any: ...
