//! Support for the tests and benches: plain references, fake CUDA, emulated CUDA, training runs,
//! golden models, ops with described operands, options of benches.

pub mod bench;
pub mod cancelling;
#[cfg(hz_cuda)]
pub mod emulator;
pub mod fake_cuda;
pub mod folder;
pub mod golden;
pub mod operands;
pub mod reference;
pub mod runs;
pub mod sha256;
pub mod spans;

use std::path::{Path, PathBuf};

/// The root of the repository, or the folder in `CARGO_MANIFEST_DIR` at run time: cargo sets it to
/// the root, and `tests/gpu/run` to the data of a test pack.
///
/// # Panics
/// If this crate is no longer two folders below the root.
pub fn root() -> PathBuf {
    let compiled =
        || Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("tests/support").to_owned();
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(compiled, PathBuf::from)
}
