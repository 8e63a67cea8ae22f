//! Parses the manifest of a checkpoint, as it is and with a correct checksum added.
#![no_main]

use std::path::Path;

use horizon::checkpoint::Manifest;
use horizon::engine::StateSpan;
use libfuzzer_sys::fuzz_target;
use xxhash_rust::xxh3::xxh3_64;

fn check(file: &[u8]) {
    let Ok(manifest) = Manifest::parse(file) else { return };
    let folder = Path::new("/folder");
    for (name, _) in manifest.all_files() {
        let path = folder.join(name);
        assert!(
            path.parent() == Some(folder) && path.file_name().is_some_and(|last| last == name),
            "{name:?}"
        );
    }
    for unit in &manifest.units {
        let mut end = 0;
        for span in StateSpan::all(manifest.optimizer()) {
            let (start, bytes) = manifest.locate(unit, span).expect("the manifest has been checked");
            assert_eq!(start, end);
            end = start.checked_add(bytes).expect("the manifest has been checked");
        }
        assert_eq!(end, unit.bytes);
    }
    let sealed = manifest.seal().expect("a manifest is JSON");
    let again = Manifest::parse(&sealed).expect("a written manifest is parsed");
    assert_eq!(again, manifest);
}

fuzz_target!(|input: &[u8]| {
    check(input);
    if let Ok(text) = std::str::from_utf8(input) {
        let checksum = xxh3_64(text.as_bytes());
        check(format!("{{\n\"checksum\": \"{checksum:016x}\",\n\"manifest\": {text}\n}}\n").as_bytes());
    }
});
