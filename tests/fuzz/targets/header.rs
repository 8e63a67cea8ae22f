//! A safetensors file: what its header says lies in it.
#![no_main]

use horizon::hf::Header;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|file: &[u8]| {
    let Ok(header) = Header::parse(file) else { return };
    let mut covered = 0;
    for name in header.names() {
        let (bytes, _, shape) = header.tensor(&name).expect("a tensor that it names");
        let _ = &file[bytes.clone()];
        assert!(shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size)).is_some());
        covered += bytes.len();
    }
    assert!(covered <= file.len());
    assert!(header.tensor("no such tensor").is_none() || header.names().any(|name| name == "no such tensor"));
});
