//! Options whose names have changed. The old names are refused with the new ones.

use clap::Error;
use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Subcommand, old name, new name.
const RENAMED: [(&str, &str, &str); 5] = [
    ("train", "--products", "--gemm-table"),
    ("train", "--sum-on-device", "--accum-on-device"),
    ("plan", "--sum-on-device", "--accum-on-device"),
    ("calibrate", "--products", "--autotune"),
    ("calibrate", "--only-products", "--autotune-only"),
];

/// The message for an error about an old name; none for other errors.
pub fn explain(subcommand: &str, error: &Error) -> Option<String> {
    let unknown = match (error.kind(), error.get(ContextKind::InvalidArg)) {
        (ErrorKind::UnknownArgument, Some(ContextValue::String(unknown))) => unknown,
        _ => return None,
    };
    let (_, old, new) = RENAMED.iter().find(|(of, old, _)| *of == subcommand && old == unknown)?;
    Some(format!("option {old} of `horizon {subcommand}` was renamed: use {new}"))
}
