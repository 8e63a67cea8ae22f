//! Reads the names of all public types from the sources, and asserts that the tests use each.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The levels that contain `unsafe`, except `capi`, whose types only C can make.
const LEVELS: [&str; 6] = ["sys", "host", "device", "ops", "optim", "engine"];

/// Collects the public types of a module: its own, its re-exports, and those of its public modules.
fn public_types(module: &Path, names: &mut BTreeSet<String>) {
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
            public_types(files.iter().find(|file| file.exists()).unwrap(), names);
        }
    }
}

#[test]
fn every_public_type_is_misused() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut names = BTreeSet::new();
    LEVELS.iter().for_each(|level| public_types(&root.join("src").join(level).join("mod.rs"), &mut names));
    assert!(names.len() > 80, "too few types found in the sources: {names:?}");
    let tests: String = ["device.rs", "memory.rs", "trainer.rs"]
        .map(|file| fs::read_to_string(root.join("tests/sound").join(file)).unwrap())
        .concat();
    let named: BTreeSet<&str> = tests.split(|c: char| !(c.is_alphanumeric() || c == '_')).collect();
    let missing: Vec<&String> = names.iter().filter(|name| !named.contains(name.as_str())).collect();
    assert!(missing.is_empty(), "tests/sound does not misuse {missing:?}: add a mistake for each");
}
