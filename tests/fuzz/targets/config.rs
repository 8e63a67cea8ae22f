//! A `config.json`, to a model and back.
#![no_main]

use horizon::base::DType;
use horizon::hf::{Family, FolderConfig};
use horizon::model::Layout;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let Ok(config) = FolderConfig::parse(text) else { return };
    config.model.validate().expect("what is read is valid");
    assert!(config.model.rope_scaling.inv_freq(config.model.rope_theta, config.model.dims.d).len() * 2 == config.model.dims.d);
    Family::of(&config.model).expect("a family said it");
    for dtype in [DType::Bf16, DType::F32] {
        let written = config.json(dtype).to_string();
        let again = FolderConfig::parse(written.as_bytes()).expect("what is written is read");
        assert!((again.model, again.family) == (config.model.clone(), config.family));
    }
    // Sizes are as yet no memory: a layout is made of models that a machine could hold the names of.
    if config.model.dims.l <= 1 << 10 {
        let layout = Layout::new(&config.model);
        assert!(layout.elements() >= layout.parameters());
    }
});
