//! The names of public types, read from the sources.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The levels that contain `unsafe`; of `capi` nothing can be made in Rust.
const LEVELS: [&str; 6] = ["sys", "host", "device", "ops", "optim", "engine"];

/// Adds the types that a module shows: its own, those it exports, and those of its public modules.
fn shown(module: &Path, names: &mut BTreeSet<String>) {
    let text = fs::read_to_string(module).unwrap();
    let is_type = |word: &&str| {
        word.starts_with(|c: char| c.is_uppercase()) && word.contains(|c: char| c.is_lowercase())
    };
    let words = |text: &str| -> Vec<String> {
        let words = text.split(|c: char| !(c.is_alphanumeric() || c == '_'));
        words.filter(is_type).map(str::to_owned).collect()
    };
    for exported in text.split("\npub use ").skip(1) {
        names.extend(words(exported.split(';').next().unwrap()));
    }
    for line in text.lines() {
        let item = line.strip_prefix("pub ").map(|item| item.strip_prefix("unsafe ").unwrap_or(item));
        let kinds = ["struct ", "enum ", "trait ", "type "];
        if let Some(rest) = item.and_then(|item| kinds.iter().find_map(|kind| item.strip_prefix(kind))) {
            names.extend(words(rest).into_iter().next());
        }
        if let Some(name) = item.and_then(|item| item.strip_prefix("mod ")?.strip_suffix(';')) {
            let folder = module.parent().unwrap();
            let files = [folder.join(format!("{name}.rs")), folder.join(name).join("mod.rs")];
            shown(files.iter().find(|file| file.exists()).unwrap(), names);
        }
    }
}

#[test]
fn every_public_type_is_abused() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut names = BTreeSet::new();
    LEVELS.iter().for_each(|level| shown(&root.join("src").join(level).join("mod.rs"), &mut names));
    assert!(names.len() > 80, "the sources are not read any more: {names:?}");
    let abuse: String = ["device.rs", "memory.rs", "trainer.rs"]
        .map(|file| fs::read_to_string(root.join("tests/sound").join(file)).unwrap())
        .concat();
    let named: BTreeSet<&str> = abuse.split(|c: char| !(c.is_alphanumeric() || c == '_')).collect();
    let missing: Vec<&String> = names.iter().filter(|name| !named.contains(name.as_str())).collect();
    assert!(missing.is_empty(), "tests/sound does not abuse {missing:?}");
}
