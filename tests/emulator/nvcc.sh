#!/usr/bin/env bash
# nvcc.sh [arch...]: compiles every csrc/*.cu and the conformance kernels with warnings as errors, for sm_90a or the
# given architectures ("all": all that the library supports), and prints registers, shared memory and spills of every
# kernel. Fails on a warning, a spill, or serialized wgmma; for sm_90a also on an instruction order that leaves the
# tensor cores idle (sass_order.py). CUDA_HOME is the toolkit; nvdisasm may also be in PATH.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
csrc=$here/../../csrc
: "${CUDA_HOME:=/usr/local/cuda}"
[ $# -gt 0 ] || set -- 90a
[ "$1" != all ] || set -- 80 86 89 90a 100a 120a
nvdisasm=$(PATH=$CUDA_HOME/bin:$PATH command -v nvdisasm) || {
    echo "no nvdisasm in $CUDA_HOME/bin or PATH (pip: nvidia-cuda-nvdisasm)" >&2
    exit 1
}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
status=0
# compile ARCH SOURCE
compile() {
    "$CUDA_HOME/bin/nvcc" -std=c++20 -O3 -lineinfo -I"$csrc" -I"$here" -Xcompiler=-Wall,-Wextra -Werror all-warnings -Xptxas=-v \
        --keep --keep-dir "$out" -gencode "arch=compute_$1,code=sm_$1" -c "$2" -o "$out/x.$$.o" >"$out/$(basename "$2").log" 2>&1
}
export here csrc out CUDA_HOME
export -f compile
for arch in "$@"; do
    echo "== sm_$arch: registers, static shared bytes, stack bytes, spilled bytes, kernel"
    # Largest file first, for load balance.
    ls -S "$csrc"/*.cu "$here"/conform*.cu | xargs -d '\n' -P "$(nproc)" -I{} bash -c 'compile "$@"' _ "$arch" {} || {
        grep -hvE 'ptxas info|bytes stack frame' "$out"/*.log
        exit 1
    }
    if cat "$out"/*.log | grep "wgmma.mma_async instructions are serialized"; then status=3; fi
    cat "$out"/*.log | c++filt | awk '
            { gsub(/hz::|\(anonymous namespace\)::/, "") }
            /Function properties for/ { sub(/.*Function properties for (void )?/, ""); sub(/\(.*/, ""); name = $0 }
            /bytes stack frame/ { stack = $1; spill = $5 + $9; if (spill > 0) bad = 1 }
            /Used [0-9]+ registers/ {
                match($0, /Used [0-9]+/); regs = substr($0, RSTART + 5, RLENGTH - 5)
                smem = 0; if (match($0, /[0-9]+ bytes smem/)) smem = substr($0, RSTART, RLENGTH) + 0
                printf "%4d %6d %5d %5d  %s\n", regs, smem, stack, spill, name; kernels = 1 }
            END { exit bad || !kernels }' || status=2
    if [ "$arch" = 90a ]; then
        echo "== sm_$arch: instructions of each main loop, by their order"
        "$here/sass_order.py" "$nvdisasm" "$out/attention_wgmma.cubin" || status=4
    fi
done
case $status in
    2) echo "some kernels spill" >&2 ;;
    3) echo "ptxas serialized some wgmma" >&2 ;;
    4) echo "the instruction order leaves the tensor cores idle in some wgmma loop" >&2 ;;
esac
exit $status
