//! Parses an index of weight files; no file name may lead out of the folder.
#![no_main]

use std::path::Path;

use horizon::hf::Index;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let Ok(index) = Index::parse(text) else { return };
    let folder = Path::new("/folder");
    for name in index.files() {
        let path = folder.join(name);
        assert!(
            path.parent() == Some(folder) && path.file_name().is_some_and(|last| last == name),
            "{name:?}"
        );
    }
    assert!(index.files().len() <= index.names().count());
});
