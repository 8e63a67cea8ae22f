//! Support shared by the test binaries of `tests/` and the benches: plain references, fake CUDA, emulated CUDA, training runs,
//! golden models, ops over described operands, options of benches.

pub mod bench;
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

/// The repository's root, or the folder that `CARGO_MANIFEST_DIR` names at run time: cargo sets it to the same folder,
/// and `tests/gpu/run` to the data of a pack.
///
/// # Panics
/// If this crate is no longer two folders below the root.
pub fn root() -> PathBuf {
    let compiled =
        || Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("tests/support").to_owned();
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(compiled, PathBuf::from)
}
