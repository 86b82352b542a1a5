#!/bin/sh
# Builds the library and the training example, and runs it. Arguments go to the example.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
target=$(realpath -m "${CARGO_TARGET_DIR:-$here/../../target}")
(cd "$here" && CARGO_TARGET_DIR=$target cargo build --release --locked -p xent-c)
"${CC:-gcc}" -Wall -Wextra -Werror -std=c11 -O2 -I"$here/include" "$here/examples/train_digits.c" \
    "$target/release/libxent_c.a" -lpthread -ldl -lm -lgcc_s -o "$target/release/train_digits_c"
gzip -dc "$here/../../examples/data/digits.csv.gz" | "$target/release/train_digits_c" "$@"
