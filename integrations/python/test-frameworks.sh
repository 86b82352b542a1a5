#!/usr/bin/env bash
# All tests of the Python package and its examples, in an environment made from nothing. PyTorch is a large download; it
# is one release, because the tests take the inputs of its modules from a part of it that is not public.
set -euo pipefail
cd "$(dirname "$0")"

environment="${1:-../../target/python-frameworks}"
python3 -m venv "$environment"
"$environment/bin/pip" install -q maturin numpy ml_dtypes pytest torch==2.13.0 expecttest 'jax>=0.10'
VIRTUAL_ENV="$(realpath "$environment")" "$environment/bin/maturin" develop --release --locked

"$environment/bin/python" -m pytest -q -rs
"$environment/bin/python" examples/train_digits.py
"$environment/bin/python" examples/train_digits_jax.py
"$environment/bin/python" examples/train_language_model.py --steps 30
