//! Built-in model shapes, for training and planning without files.

use crate::base::Dims;
use crate::model::{Biases, ModelConfig, Rope};

/// Names of the presets, which can be trained, smallest first.
pub fn preset_names() -> &'static [&'static str] {
    &["tiny", "small"]
}

/// Returns a preset by name. All presets are byte-level: 256 byte values and no special token.
pub fn preset(name: &str) -> Option<ModelConfig> {
    let (c, l, h, g, f, positions_max) = match name {
        "tiny" => (128, 4, 4, 2, 352, 1024),
        "small" => (384, 8, 6, 2, 1024, 2048),
        _ => return None,
    };
    let dims = Dims { c, h, g, d: c / h, f, v: 256, l };
    Some(ModelConfig { tied: true, positions_max, ..ModelConfig::llama(dims) })
}

/// A known shape: name, [C, L, H, G, D, F, V], tied, positions.
type Known = (&'static str, [usize; 7], bool, usize);

/// From the models' `config.json`; the last two are hypothetical models.
const KNOWN: [Known; 12] = [
    ("qwen2.5-0.5b", [896, 24, 14, 2, 64, 4864, 151_936], true, 32_768),
    ("qwen2.5-1.5b", [1536, 28, 12, 2, 128, 8960, 151_936], true, 131_072),
    ("qwen2.5-3b", [2048, 36, 16, 2, 128, 11_008, 151_936], true, 32_768),
    ("qwen2.5-7b", [3584, 28, 28, 4, 128, 18_944, 152_064], false, 131_072),
    ("qwen2.5-14b", [5120, 48, 40, 8, 128, 13_824, 152_064], false, 131_072),
    ("qwen2.5-32b", [5120, 64, 40, 8, 128, 27_648, 152_064], false, 131_072),
    ("qwen2.5-72b", [8192, 80, 64, 8, 128, 29_568, 152_064], false, 131_072),
    ("llama3.1-8b", [4096, 32, 32, 8, 128, 14_336, 128_256], false, 131_072),
    ("llama3.1-70b", [8192, 80, 64, 8, 128, 28_672, 128_256], false, 131_072),
    ("llama3.1-405b", [16_384, 126, 128, 8, 128, 53_248, 128_256], false, 131_072),
    ("dense-120b", [10_240, 88, 80, 8, 128, 35_840, 128_256], false, 131_072),
    ("dense-1t", [24_576, 136, 192, 8, 128, 81_920, 128_256], false, 131_072),
];

/// Names of the shapes that [`shape`] knows besides the presets; for planning only.
pub fn shape_names() -> impl Iterator<Item = &'static str> {
    KNOWN.iter().map(|(name, ..)| *name)
}

/// Returns the shape of a preset or a known model by name, for planning.
pub fn shape(name: &str) -> Option<ModelConfig> {
    if let Some(config) = preset(name) {
        return Some(config);
    }
    let (_, [c, l, h, g, d, f, v], tied, positions_max) = *KNOWN.iter().find(|(known, ..)| *known == name)?;
    let is_qwen = name.starts_with("qwen");
    Some(ModelConfig {
        dims: Dims { c, h, g, d, f, v, l },
        tied,
        norm_eps: if is_qwen { 1e-6 } else { 1e-5 },
        rope: Rope { theta: if is_qwen { 1e6 } else { 5e5 }, ..Rope::default() },
        positions_max,
        biases: Biases { qkv: is_qwen, ..Biases::default() },
        ..ModelConfig::llama(Dims { c, h, g, d, f, v, l })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Layout;

    #[test]
    fn known_shapes_have_the_parameter_counts_in_their_names() {
        for name in shape_names() {
            let config = shape(name).unwrap();
            config.validate().unwrap();
            let size = name.rsplit('-').next().unwrap();
            let (number, unit) = size.split_at(size.len() - 1);
            let billions = number.parse::<f64>().unwrap() * if unit == "t" { 1e3 } else { 1.0 };
            let parameters = Layout::new(&config).parameters() as f64 / 1e9;
            assert!((parameters / billions - 1.0).abs() < 0.1, "{name} has {parameters} B parameters");
        }
    }

    #[test]
    fn known_shapes_have_the_parameter_counts_of_the_published_models() {
        // Sums over the tensors of the published checkpoints.
        for (name, parameters) in [("llama3.1-8b", 8_030_261_248), ("llama3.1-70b", 70_553_706_496)] {
            assert_eq!(Layout::new(&shape(name).unwrap()).parameters(), parameters, "{name}");
        }
    }
}
