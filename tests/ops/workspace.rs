//! The CUDA kernels' contract with whoever makes them: what they take, what they work in, how they fail.

use std::panic::{AssertUnwindSafe, catch_unwind};

use horizon::base::{Dims, Shape, Status};
use horizon::ops::cuda::workspace::{PRODUCTS_BYTES, supports, workspace_bytes};
use horizon::ops::{Extras, Kernels};
use support::reference::cuda::Cuda;
use support::reference::memory::Memory;

const DIMS: Dims = Dims { c: 4096, h: 32, g: 8, d: 128, f: 14336, v: 128_256, l: 32 };

#[test]
fn what_kernels_cannot_compute_is_refused_by_name() {
    supports(&DIMS, Shape { b: 4, t: 4096 }).expect("an everyday model");
    for (dims, words) in [
        (Dims { d: 80, ..DIMS }, ["head_dim", "80"]),
        (Dims { c: 4100, ..DIMS }, ["hidden_size", "4100"]),
        (Dims { c: 16392, ..DIMS }, ["hidden_size", "16392"]),
        (Dims { f: 14337, ..DIMS }, ["intermediate_size", "14337"]),
        (Dims { h: 1 << 20, ..DIMS }, ["1048576 heads", "4 × 4096"]),
    ] {
        let error = supports(&dims, Shape { b: 4, t: 4096 }).unwrap_err();
        assert_eq!(error.status(), Status::Unsupported);
        assert!(words.iter().all(|word| error.message().contains(word)), "{error}");
    }
    let rows_max = i32::MAX as usize / 32 - 255;
    supports(&DIMS, Shape { b: 1, t: rows_max }).expect("as many rows as are counted");
    supports(&DIMS, Shape { b: 1, t: rows_max + 1 }).expect_err("one more");
}

#[test]
fn a_workspace_grows_with_what_needs_it() {
    let bytes = |dims: Dims, t: usize, chunk: usize| {
        workspace_bytes(&dims, Shape { b: 1, t }, chunk, Extras::default()) - PRODUCTS_BYTES
    };
    // A norm's partial sums, 512 rows of C; attention's row sums; a chunk's log-probabilities.
    assert_eq!(bytes(DIMS, 4096, 512), 512 * 4096 * 4);
    assert_eq!(bytes(DIMS, 1 << 20, 512), (1 << 20) * 32 * 4);
    // A quarter of the tiles of keys that are wanted: four blocks divide the heads of a group.
    assert_eq!(bytes(DIMS, 1024, 512), 4 * 2 * 1024 * 8 * 128 * 4 + 1024 * 32 * 4);
    let narrow = Dims { c: 8, h: 1, ..DIMS };
    assert_eq!(bytes(narrow, 4096, 4096), 4096 * 4);
    let with = |extras: Extras| workspace_bytes(&DIMS, Shape { b: 1, t: 4096 }, 512, extras) - PRODUCTS_BYTES;
    assert_eq!(with(Extras { bias_columns: 20_000, qk_norm: true }), 512 * 20_000 * 4);
    assert_eq!(with(Extras { bias_columns: 0, qk_norm: true }), 512 * 4096 * 4);
}

#[cfg(hz_cuda)]
mod with_kernels {
    use horizon::ops::cuda::workspace::{
        attention_backward_scratch, bias_backward_scratch, qk_norm_backward_scratch, rmsnorm_backward_scratch,
    };
    use horizon::sys::cuda::bindings as cu;

    #[test]
    fn scratch_is_as_long_as_launchers_say() {
        for n in [0, 1, 2, 511, 512, 513, 4096, 100_000] {
            for width in [8, 64, 96, 4096, 16384] {
                // SAFETY: a function of numbers, run by the host.
                let launcher = unsafe { cu::hzk_rmsnorm_backward_scratch(n as i64, width as i64) };
                assert_eq!(launcher, rmsnorm_backward_scratch(n, width));
            }
            for (h, g, d) in [(1, 1, 64), (14, 2, 64), (28, 4, 128), (32, 32, 96), (257, 1, 256)] {
                // SAFETY: as above, a function of numbers.
                let launcher =
                    unsafe { cu::hzk_attention_backward_scratch(n as i64, h as i64, g as i64, d as i64) };
                assert_eq!(launcher, attention_backward_scratch(n, h, g, d), "{n} x {h} x {g} x {d}");
            }
        }
        for n in [0, 1, 2, 511, 512, 513, 4096, 100_000] {
            for width in [8, 64, 96, 4096, 16384] {
                // SAFETY: as above, a function of numbers.
                let launcher = unsafe { cu::hzk_bias_backward_scratch(n as i64, width as i64) };
                assert_eq!(launcher, bias_backward_scratch(n, width));
            }
            for (heads, d) in [(1, 64), (8, 96), (32, 128), (64, 256)] {
                // SAFETY: as above; the launcher's blocks take several heads, so it may want less.
                let launcher = unsafe { cu::hzk_qk_norm_backward_scratch(n as i64, heads as i64, d as i64) };
                assert!(
                    launcher <= qk_norm_backward_scratch(n, heads, d),
                    "{n} rows of {heads} heads of {d}"
                );
            }
        }
    }
}

#[test]
fn the_first_failure_is_kept_with_its_launcher_and_told_once() {
    let Some(cuda) = Cuda::all().next() else { return };
    let k = cuda.kernels();
    let [out, x, gate_up, rstd, weight] = [48, 48, 96, 8, 24].map(|bytes| cuda.here(Memory::painted(bytes)));
    k.outcome().expect("nothing was launched");
    k.rmsnorm_forward(out.span(), rstd.span(), x.span(), weight.span(), 1e-5, 2, 12);
    k.swiglu_forward(out.span(), gate_up.span(), 2, 12);
    let error = k.outcome().expect_err("12 columns are no whole vectors");
    assert!(error.message().contains("hzk_rmsnorm_forward"), "{error}");
    k.outcome().expect("the failure was told");
}

#[test]
fn a_span_that_is_too_short_is_a_bug() {
    let Some(cuda) = Cuda::all().next() else { return };
    let [out, gate_up] = [2 * 16 * 2 - 2, 2 * 32 * 2].map(|bytes| cuda.here(Memory::painted(bytes)));
    let launch = || cuda.kernels().swiglu_forward(out.span(), gate_up.span(), 2, 16);
    let panic = catch_unwind(AssertUnwindSafe(launch)).expect_err("a span is two bytes short");
    let message = panic.downcast_ref::<String>().expect("a formatted message");
    assert!(message.contains("leave a span of"), "{message}");
}
