from typing import Any, Literal, Optional, Sequence, Union

from ._native import (
    BACKENDS as BACKENDS,
    BUILD as BUILD,
    DTYPES as DTYPES,
    CrossEntropy as CrossEntropy,
    Summary as Summary,
    log_softmax as log_softmax,
    softmax as softmax,
)

# A NumPy array, or anything that has `__dlpack__`.
Array = Any
Weight = Union[Array, Sequence[float]]
IgnoreIndex = Union[int, Sequence[int], None]
# By its name, or as a NumPy dtype.
GradDtype = Union[Literal["float32", "float16", "bfloat16", "float64"], Any]
Backend = Literal["portable", "avx2", "avx512"]
_Reduction = Literal["mean", "sum", "none"]
_Smoothing = Literal["all_classes", "other_classes", "live_classes"]

def cross_entropy(
    input: Array,
    target: Union[Array, int],
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
    loss_mask: Optional[Array] = None,
    row_weights: Optional[Array] = None,
    denominator: Optional[float] = None,
) -> Any: ...
def loss_and_grad(
    input: Array,
    target: Union[Array, int],
    weight: Optional[Weight] = None,
    *,
    out: Optional[Array] = None,
    grad_dtype: Optional[GradDtype] = None,
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
    loss_mask: Optional[Array] = None,
    row_weights: Optional[Array] = None,
    upstream: Optional[Array] = None,
    upstream_scalar: Optional[float] = None,
    denominator: Optional[float] = None,
) -> tuple[Any, Any]: ...
