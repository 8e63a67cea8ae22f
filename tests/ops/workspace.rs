//! The CUDA kernels: supported models, workspace and error reporting.

use horizon::base::{Dims, Shape, Status};
use horizon::ops::cuda::workspace::{self, ALIGNMENT, GEMM_BYTES, supports};
use horizon::ops::{Activation, GluForward, Kernels, NormSpan, RmsnormForward};
use support::reference::cuda::Cuda;
use support::reference::memory::Memory;
use support::spans;

const DIMS: Dims = Dims { c: 4096, h: 32, g: 8, d: 128, f: 14336, v: 128_256, l: 32 };

#[test]
fn unsupported_models_are_refused_by_name() {
    supports(&DIMS, DIMS.d, None, Shape { b: 4, t: 4096 }).expect("a common model");
    for (dims, words) in [
        (Dims { d: 80, ..DIMS }, ["head_dim", "80"]),
        (Dims { c: 4100, ..DIMS }, ["hidden_size", "4100"]),
        (Dims { c: 16392, ..DIMS }, ["hidden_size", "16392"]),
        (Dims { f: 14337, ..DIMS }, ["intermediate_size", "14337"]),
        (Dims { h: 1 << 20, ..DIMS }, ["1048576 heads", "4 × 4096"]),
    ] {
        let error = supports(&dims, dims.d, None, Shape { b: 4, t: 4096 }).unwrap_err();
        assert_eq!(error.status(), Status::Unsupported);
        assert!(words.iter().all(|word| error.message().contains(word)), "{error}");
    }
    let shape = Shape { b: 1, t: 64 };
    let partial = supports(&DIMS, 72, None, shape).unwrap_err();
    assert!(partial.message().contains("multiple of 16, not 72"), "{partial}");
    let wide = supports(&Dims { h: 136, ..DIMS }, 128, Some(NormSpan::AllHeads), shape).unwrap_err();
    assert!(wide.message().contains("at most 16384, not 17408"), "{wide}");
    let rows_max = i32::MAX as usize / 32 - 255;
    supports(&DIMS, DIMS.d, None, Shape { b: 1, t: rows_max }).expect("the maximum number of rows");
    supports(&DIMS, DIMS.d, None, Shape { b: 1, t: rows_max + 1 }).expect_err("one row more");
}

#[test]
fn a_workspace_holds_gemm_memory_and_aligned_scratch() {
    assert_eq!(workspace::bytes(0), GEMM_BYTES + ALIGNMENT);
    assert_eq!(workspace::bytes(ALIGNMENT), GEMM_BYTES + ALIGNMENT);
    assert_eq!(workspace::bytes(ALIGNMENT + 1), GEMM_BYTES + 2 * ALIGNMENT);
}

#[test]
fn the_first_failure_is_returned_once_with_its_launcher() {
    let Some(cuda) = Cuda::all().next() else { return };
    let k = cuda.kernels();
    let memory = [48, 48, 96, 8, 24].map(|bytes| cuda.here(Memory::poisoned(bytes)));
    let [out, x, gate_up, rstd, weight] = memory.each_ref().map(Memory::span);
    k.outcome().expect("nothing was launched");
    spans::run(
        k,
        &RmsnormForward { out, rstd, x, weight, residual: None, offset: 0.0, eps: 1e-5, n: 2, c: 12 }.into(),
    );
    spans::run(k, &GluForward { out, gate_up, activation: Activation::Silu, n: 2, f: 12 }.into());
    let error = k.outcome().expect_err("12 columns are not a multiple of 8");
    assert!(error.message().contains("hzk_rmsnorm_forward"), "{error}");
    k.outcome().expect("the failure was returned before");
}
