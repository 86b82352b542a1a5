#!/bin/sh
# Installs the headers, both libraries, and the files of pkg-config and CMake, on Linux:
#
#     install.sh PREFIX              builds the release and installs it
#     install.sh PREFIX DIRECTORY    installs the libraries that are in this directory
set -eu
here=$(cd "$(dirname "$0")" && pwd)
[ $# -ge 1 ] || { echo "usage: install.sh PREFIX [DIRECTORY]" >&2; exit 2; }
prefix=$1

if [ $# -ge 2 ]; then
    built=$2
else
    target=$(realpath -m "${CARGO_TARGET_DIR:-$here/../../target}")
    (cd "$here" && CARGO_TARGET_DIR=$target cargo build --release --locked -p xent-c)
    built=$target/release
fi

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$here/Cargo.toml")
series=${version%.*}
fill() { sed -e "s/@VERSION@/$version/" -e "s/@SERIES@/$series/" "$here/$1"; }

for library in libxent_c.a libxent_c.so; do
    [ -f "$built/$library" ] || { echo "no $library in $built" >&2; exit 1; }
done
mkdir -p "$prefix/include" "$prefix/lib/pkgconfig" "$prefix/lib/cmake/xent"
cp "$here/include/xent.h" "$here/include/xent.hpp" "$prefix/include"
cp "$built/libxent_c.a" "$prefix/lib/libxent_c.a"
cp "$built/libxent_c.so" "$prefix/lib/libxent_c.so.$version"
ln -sf "libxent_c.so.$version" "$prefix/lib/libxent_c.so.$series"
ln -sf "libxent_c.so.$series" "$prefix/lib/libxent_c.so"
fill xent.pc.in >"$prefix/lib/pkgconfig/xent.pc"
cp "$here/xent-config.cmake" "$prefix/lib/cmake/xent"
fill xent-config-version.cmake.in >"$prefix/lib/cmake/xent/xent-config-version.cmake"
echo "installed xent $version in $prefix"
