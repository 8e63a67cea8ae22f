//! Options whose names have changed, and options of other tools. Both are refused with the right
//! name.

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

/// An option of other tools, and the one of the same meaning here, in the subcommands that have it.
const FOREIGN: [(&str, &str); 23] = [
    ("--batch-size", "--micro-batch"),
    ("--batch", "--micro-batch"),
    ("--per-device-train-batch-size", "--micro-batch"),
    ("--gradient-accumulation-steps", "--grad-accum"),
    ("--gradient-checkpointing", "--recompute"),
    ("--activation-checkpointing", "--recompute"),
    ("--max-length", "--seq-len"),
    ("--max-seq-length", "--seq-len"),
    ("--block-size", "--seq-len"),
    ("--max-steps", "--steps"),
    ("--num-train-epochs", "--steps"),
    ("--epochs", "--steps"),
    ("--learning-rate", "--lr"),
    ("--warmup-steps", "--warmup"),
    ("--lr-scheduler-type", "--schedule"),
    ("--max-grad-norm", "--clip"),
    ("--output-dir", "--out"),
    ("--output", "--out"),
    ("--resume-from-checkpoint", "--resume"),
    ("--dataset", "--data"),
    ("--train-file", "--data"),
    ("--max-new-tokens", "--tokens"),
    ("--max-tokens", "--tokens"),
];

/// The new name of an option of a subcommand; none if it was not renamed.
pub fn new_name(subcommand: &str, old: &str) -> Option<&'static str> {
    let renamed = RENAMED.iter().find(|(of, name, _)| *of == subcommand && *name == old);
    renamed.map(|(_, _, new)| *new)
}

/// The message for an error about an old or foreign name; none for other errors. Foreign names may
/// be written with underscores.
pub fn explain(subcommand: &str, error: &Error) -> Option<String> {
    let unknown = match (error.kind(), error.get(ContextKind::InvalidArg)) {
        (ErrorKind::UnknownArgument, Some(ContextValue::String(unknown))) => unknown,
        _ => return None,
    };
    if let Some(new) = new_name(subcommand, unknown) {
        return Some(format!("option {unknown} of `horizon {subcommand}` was renamed: use {new}"));
    }
    let name = unknown.replace('_', "-");
    let (_, ours) = FOREIGN.iter().find(|(foreign, _)| *foreign == name)?;
    let command = super::command();
    let mut options = command.find_subcommand(subcommand)?.get_arguments().filter_map(|arg| arg.get_long());
    options
        .any(|option| ours.strip_prefix("--") == Some(option))
        .then(|| format!("there is no option {unknown}: use {ours}"))
}
