//! Contents of folders.

use std::fs;
use std::path::Path;

/// The names in a folder, including hidden ones, sorted.
///
/// # Panics
/// If the folder cannot be read.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The state files of a checkpoint, concatenated.
///
/// # Panics
/// If one cannot be read, or they are empty.
pub fn states(checkpoint: &Path) -> Vec<u8> {
    let names = names(checkpoint).into_iter().filter(|name| name.ends_with(".state"));
    let states: Vec<u8> = names.flat_map(|name| fs::read(checkpoint.join(name)).unwrap()).collect();
    assert!(!states.is_empty(), "{} is empty", checkpoint.display());
    states
}
