//! Parses a `config.json`, writes it and parses it again.
#![no_main]

use horizon::base::DType;
use horizon::hf::{Family, FolderConfig};
use horizon::model::Layout;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let Ok(config) = FolderConfig::parse(text) else { return };
    config.model.validate().expect("a parsed config is valid");
    let (rope, head) = (&config.model.rope, config.model.dims.d);
    assert!(rope.tables(head, 1).iter().all(|table| table.len() * 2 == rope.rotating(head)));
    Family::of(&config.model).expect("the config names a family");
    for dtype in [DType::Bf16, DType::F32] {
        let written = config.json(dtype).to_string();
        let again = FolderConfig::parse(written.as_bytes()).expect("a written config is parsed");
        assert!((again.model, again.family) == (config.model.clone(), config.family));
    }
    // A layout allocates only the names of its tensors, so only the number of layers must be
    // limited.
    if config.model.dims.l <= 1 << 10 {
        let layout = Layout::new(&config.model);
        assert!(layout.elements() >= layout.parameters());
    }
});
