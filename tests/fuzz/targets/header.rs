//! Parses the header of a safetensors file; all tensors must be inside the file.
#![no_main]

use horizon::hf::Header;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|file: &[u8]| {
    let header = Header::read(file.len() as u64, |offset, out| {
        out.copy_from_slice(&file[offset as usize..][..out.len()]);
        Ok(())
    });
    let Ok(header) = header else { return };
    let mut covered = 0;
    for name in header.names() {
        let (bytes, _, shape) = header.tensor(&name).expect("the header has this tensor");
        let bytes = bytes.start as usize..bytes.end as usize;
        let _ = &file[bytes.clone()];
        assert!(shape.iter().try_fold(1usize, |elements, &size| elements.checked_mul(size)).is_some());
        covered += bytes.len();
    }
    assert!(covered <= file.len());
    assert!(header.tensor("no such tensor").is_none() || header.names().any(|name| name == "no such tensor"));
});
