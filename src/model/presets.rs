//! Built-in shapes: what trains without any file.

use crate::base::Dims;
use crate::model::ModelConfig;

/// Names of the built-in shapes, smallest first.
pub fn preset_names() -> &'static [&'static str] {
    &["tiny", "small"]
}

/// A built-in shape by name. Both are byte-level: 256 byte values and no special token.
pub fn preset(name: &str) -> Option<ModelConfig> {
    let (c, l, h, g, f, positions_max) = match name {
        "tiny" => (128, 4, 4, 2, 352, 1024),
        "small" => (384, 8, 6, 2, 1024, 2048),
        _ => return None,
    };
    let dims = Dims { c, h, g, d: c / h, f, v: 256, l };
    Some(ModelConfig { tied: true, positions_max, ..ModelConfig::llama(dims) })
}
