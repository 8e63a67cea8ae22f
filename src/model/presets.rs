//! Built-in model shapes, for training and planning without files.

use crate::base::Dims;
use crate::model::{Biases, ModelConfig, Multipliers, Norms, Rope, Window};
use crate::ops::{Activation, NormSpan, QueryScaling};

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

/// Features of known shapes. RoPE scaling for long sequences is left out: it changes no plan.
#[derive(Clone, Copy)]
enum Features {
    Llama,
    Qwen2,
    Qwen3,
    /// The window of most layers.
    Gemma3(usize),
    /// Elements of a head that rotate.
    Phi(usize),
    Olmo2,
    Olmo3,
    SmolLm3,
    Ministral3,
    /// True if queries, keys and values have a bias.
    Glm4(bool),
    /// Factor of scores, divisor of logits.
    Granite(f32, f32),
    SeedOss,
    /// True if most layers have a window.
    Exaone4(bool),
    Helium,
    Cwm,
}

/// A known shape: name, id on the Hugging Face Hub, features, [C, L, H, G, D, F, V], tied, positions.
type Known = (&'static str, &'static str, Features, [usize; 7], bool, usize);

/// From the models' `config.json`; the last two are hypothetical models.
const KNOWN: [Known; 45] = {
    use Features::*;
    [
        ("qwen2.5-0.5b", "Qwen/Qwen2.5-0.5B", Qwen2, [896, 24, 14, 2, 64, 4864, 151_936], true, 32_768),
        ("qwen2.5-1.5b", "Qwen/Qwen2.5-1.5B", Qwen2, [1536, 28, 12, 2, 128, 8960, 151_936], true, 131_072),
        ("qwen2.5-3b", "Qwen/Qwen2.5-3B", Qwen2, [2048, 36, 16, 2, 128, 11_008, 151_936], true, 32_768),
        ("qwen2.5-7b", "Qwen/Qwen2.5-7B", Qwen2, [3584, 28, 28, 4, 128, 18_944, 152_064], false, 131_072),
        ("qwen2.5-14b", "Qwen/Qwen2.5-14B", Qwen2, [5120, 48, 40, 8, 128, 13_824, 152_064], false, 131_072),
        ("qwen2.5-32b", "Qwen/Qwen2.5-32B", Qwen2, [5120, 64, 40, 8, 128, 27_648, 152_064], false, 131_072),
        ("qwen2.5-72b", "Qwen/Qwen2.5-72B", Qwen2, [8192, 80, 64, 8, 128, 29_568, 152_064], false, 131_072),
        ("qwen3-0.6b", "Qwen/Qwen3-0.6B", Qwen3, [1024, 28, 16, 8, 128, 3072, 151_936], true, 40_960),
        ("qwen3-1.7b", "Qwen/Qwen3-1.7B", Qwen3, [2048, 28, 16, 8, 128, 6144, 151_936], true, 40_960),
        ("qwen3-4b", "Qwen/Qwen3-4B", Qwen3, [2560, 36, 32, 8, 128, 9728, 151_936], true, 40_960),
        ("qwen3-8b", "Qwen/Qwen3-8B", Qwen3, [4096, 36, 32, 8, 128, 12_288, 151_936], false, 40_960),
        ("qwen3-14b", "Qwen/Qwen3-14B", Qwen3, [5120, 40, 40, 8, 128, 17_408, 151_936], false, 40_960),
        ("qwen3-32b", "Qwen/Qwen3-32B", Qwen3, [5120, 64, 64, 8, 128, 25_600, 151_936], false, 40_960),
        (
            "llama3.1-8b",
            "meta-llama/Llama-3.1-8B",
            Llama,
            [4096, 32, 32, 8, 128, 14_336, 128_256],
            false,
            131_072,
        ),
        (
            "llama3.1-70b",
            "meta-llama/Llama-3.1-70B",
            Llama,
            [8192, 80, 64, 8, 128, 28_672, 128_256],
            false,
            131_072,
        ),
        (
            "llama3.1-405b",
            "meta-llama/Llama-3.1-405B",
            Llama,
            [16_384, 126, 128, 8, 128, 53_248, 128_256],
            false,
            131_072,
        ),
        (
            "gemma3-270m",
            "google/gemma-3-270m",
            Gemma3(512),
            [640, 18, 4, 1, 256, 2048, 262_144],
            true,
            32_768,
        ),
        (
            "gemma3-1b",
            "google/gemma-3-1b-pt",
            Gemma3(512),
            [1152, 26, 4, 1, 256, 6912, 262_144],
            true,
            32_768,
        ),
        (
            "gemma3-4b",
            "google/gemma-3-4b-pt",
            Gemma3(1024),
            [2560, 34, 8, 4, 256, 10_240, 262_208],
            true,
            131_072,
        ),
        (
            "gemma3-12b",
            "google/gemma-3-12b-pt",
            Gemma3(1024),
            [3840, 48, 16, 8, 256, 15_360, 262_208],
            true,
            131_072,
        ),
        (
            "gemma3-27b",
            "google/gemma-3-27b-pt",
            Gemma3(1024),
            [5376, 62, 32, 16, 128, 21_504, 262_208],
            true,
            131_072,
        ),
        (
            "phi3.5-3.8b",
            "microsoft/Phi-3.5-mini-instruct",
            Phi(96),
            [3072, 32, 32, 32, 96, 8192, 32_064],
            false,
            131_072,
        ),
        (
            "phi4-3.8b",
            "microsoft/Phi-4-mini-instruct",
            Phi(96),
            [3072, 32, 24, 8, 128, 8192, 200_064],
            true,
            131_072,
        ),
        ("phi4-14b", "microsoft/phi-4", Phi(128), [5120, 40, 40, 10, 128, 17_920, 100_352], false, 16_384),
        ("olmo2-1b", "allenai/OLMo-2-0425-1B", Olmo2, [2048, 16, 16, 16, 128, 8192, 100_352], false, 4096),
        ("olmo2-7b", "allenai/OLMo-2-1124-7B", Olmo2, [4096, 32, 32, 32, 128, 11_008, 100_352], false, 4096),
        (
            "olmo2-13b",
            "allenai/OLMo-2-1124-13B",
            Olmo2,
            [5120, 40, 40, 40, 128, 13_824, 100_352],
            false,
            4096,
        ),
        ("olmo2-32b", "allenai/OLMo-2-0325-32B", Olmo2, [5120, 64, 40, 8, 128, 27_648, 100_352], false, 4096),
        (
            "olmo3-7b",
            "allenai/Olmo-3-1025-7B",
            Olmo3,
            [4096, 32, 32, 32, 128, 11_008, 100_278],
            false,
            65_536,
        ),
        (
            "olmo3-32b",
            "allenai/Olmo-3-1125-32B",
            Olmo3,
            [5120, 64, 40, 8, 128, 27_648, 100_278],
            false,
            65_536,
        ),
        (
            "smollm3-3b",
            "HuggingFaceTB/SmolLM3-3B",
            SmolLm3,
            [2048, 36, 16, 4, 128, 11_008, 128_256],
            true,
            65_536,
        ),
        (
            "ministral3-3b",
            "mistralai/Ministral-3-3B-Instruct-2512",
            Ministral3,
            [3072, 26, 32, 8, 128, 9216, 131_072],
            true,
            262_144,
        ),
        (
            "ministral3-8b",
            "mistralai/Ministral-3-8B-Instruct-2512",
            Ministral3,
            [4096, 34, 32, 8, 128, 14_336, 131_072],
            false,
            262_144,
        ),
        (
            "ministral3-14b",
            "mistralai/Ministral-3-14B-Instruct-2512",
            Ministral3,
            [5120, 40, 32, 8, 128, 16_384, 131_072],
            false,
            262_144,
        ),
        (
            "glm4-9b",
            "zai-org/GLM-4-9B-0414",
            Glm4(true),
            [4096, 40, 32, 2, 128, 13_696, 151_552],
            false,
            32_768,
        ),
        (
            "glm4-32b",
            "zai-org/GLM-4-32B-0414",
            Glm4(false),
            [6144, 61, 48, 2, 128, 23_040, 151_552],
            false,
            32_768,
        ),
        (
            "granite3.3-2b",
            "ibm-granite/granite-3.3-2b-base",
            Granite(0.015625, 8.0),
            [2048, 40, 32, 8, 64, 8192, 49_159],
            true,
            131_072,
        ),
        (
            "granite3.3-8b",
            "ibm-granite/granite-3.3-8b-base",
            Granite(0.0078125, 16.0),
            [4096, 40, 32, 8, 128, 12_800, 49_159],
            true,
            131_072,
        ),
        (
            "seed-oss-36b",
            "ByteDance-Seed/Seed-OSS-36B-Base",
            SeedOss,
            [5120, 64, 80, 8, 128, 27_648, 155_136],
            false,
            524_288,
        ),
        (
            "exaone4-1.2b",
            "LGAI-EXAONE/EXAONE-4.0-1.2B",
            Exaone4(false),
            [2048, 30, 32, 8, 64, 4096, 102_400],
            true,
            65_536,
        ),
        (
            "exaone4-32b",
            "LGAI-EXAONE/EXAONE-4.0-32B",
            Exaone4(true),
            [5120, 64, 40, 8, 128, 27_392, 102_400],
            false,
            131_072,
        ),
        ("helium1-2b", "kyutai/helium-1-2b", Helium, [2048, 28, 16, 8, 128, 8192, 64_000], false, 4096),
        ("cwm-32b", "facebook/cwm", Cwm, [6144, 64, 48, 8, 128, 21_504, 128_256], false, 131_072),
        ("dense-120b", "", Llama, [10_240, 88, 80, 8, 128, 35_840, 128_256], false, 131_072),
        ("dense-1t", "", Llama, [24_576, 136, 192, 8, 128, 81_920, 128_256], false, 131_072),
    ]
};

/// Names of the shapes that [`shape`] knows besides the presets; for planning only.
pub fn shape_names() -> impl Iterator<Item = &'static str> {
    KNOWN.iter().map(|(name, ..)| *name)
}

/// Returns the id of a known shape on the Hugging Face Hub; `None` for a hypothetical model.
pub fn shape_id(name: &str) -> Option<&'static str> {
    KNOWN.iter().find(|(known, ..)| *known == name).map(|(_, id, ..)| *id).filter(|id| !id.is_empty())
}

/// Returns the shape of a preset or a known model by name, for planning.
pub fn shape(name: &str) -> Option<ModelConfig> {
    if let Some(config) = preset(name) {
        return Some(config);
    }
    let (_, _, features, [c, l, h, g, d, f, v], tied, positions_max) =
        *KNOWN.iter().find(|(known, ..)| *known == name)?;
    let config = ModelConfig { tied, positions_max, ..ModelConfig::llama(Dims { c, h, g, d, f, v, l }) };
    Some(features.of(config))
}

impl Features {
    /// Adds them to a plain model.
    fn of(self, plain: ModelConfig) -> ModelConfig {
        let Dims { c, d, l, .. } = plain.dims;
        let rope = |theta| Rope { theta, ..Rope::default() };
        let qkv = Biases { qkv: true, ..Biases::default() };
        // All layers but one of each period have a window.
        let window = |size: usize, period: usize, full: usize| {
            Some(Window { size, layers: (0..l).map(|layer| layer % period != full).collect() })
        };
        let every_fourth = || Some((0..l).map(|layer| layer % 4 == 3).collect());
        let olmo = |plain| ModelConfig {
            norm_eps: 1e-6,
            norms: Norms::After,
            qk_norm: Some(NormSpan::AllHeads),
            rope: rope(5e5),
            ..plain
        };
        match self {
            Features::Llama => ModelConfig { rope: rope(5e5), ..plain },
            Features::Qwen2 => ModelConfig { norm_eps: 1e-6, rope: rope(1e6), biases: qkv, ..plain },
            Features::Qwen3 => {
                ModelConfig { norm_eps: 1e-6, rope: rope(1e6), qk_norm: Some(NormSpan::Head), ..plain }
            }
            Features::Gemma3(size) => ModelConfig {
                norm_eps: 1e-6,
                norms: Norms::Around,
                norms_plus_one: true,
                rope: Rope { windowed_theta: Some(10_000.0), ..rope(1e6) },
                qk_norm: Some(NormSpan::Head),
                window: window(size, 6, 5),
                activation: Activation::GeluTanh,
                multipliers: Multipliers { embedding: (c as f32).sqrt(), ..Multipliers::default() },
                ..plain
            },
            Features::Phi(r) => ModelConfig {
                rope: Rope { rotated: Some(r).filter(|&r| r != d), ..Rope::default() },
                ..plain
            },
            Features::Olmo2 => olmo(plain),
            Features::Olmo3 => ModelConfig { window: window(4096, 4, 3), ..olmo(plain) },
            Features::SmolLm3 => {
                ModelConfig { norm_eps: 1e-6, rope: Rope { without: every_fourth(), ..rope(5e6) }, ..plain }
            }
            Features::Ministral3 => {
                let queries = Some(QueryScaling { beta: 0.1, positions: 16_384 });
                ModelConfig { rope: Rope { queries, ..rope(1e6) }, ..plain }
            }
            Features::Glm4(has_bias) => ModelConfig {
                norms: Norms::Around,
                rope: Rope { rotated: Some(d / 2), interleaved: true, ..Rope::default() },
                biases: Biases { qkv: has_bias, ..Biases::default() },
                ..plain
            },
            Features::Granite(scores, divisor) => {
                let (scores, logits) = (Some(scores), 1.0 / divisor);
                let multipliers = Multipliers { embedding: 12.0, residual: 0.22, scores, logits };
                ModelConfig { rope: rope(1e7), multipliers, ..plain }
            }
            Features::SeedOss => ModelConfig { norm_eps: 1e-6, rope: rope(1e7), biases: qkv, ..plain },
            Features::Exaone4(has_window) => ModelConfig {
                norms: Norms::After,
                qk_norm: Some(NormSpan::Head),
                rope: Rope { without: every_fourth().filter(|_| has_window), ..rope(1e6) },
                window: window(4096, 4, 3).filter(|_| has_window),
                ..plain
            },
            Features::Helium => {
                ModelConfig { norm_eps: 1e-8, rope: Rope { interleaved: true, ..rope(1e5) }, ..plain }
            }
            Features::Cwm => ModelConfig { rope: rope(1e6), window: window(8192, 4, 0), ..plain },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Layout;

    /// Sums over the tensors of published checkpoints.
    const PUBLISHED: [(&str, usize); 22] = [
        ("llama3.1-8b", 8_030_261_248),
        ("llama3.1-70b", 70_553_706_496),
        ("qwen3-0.6b", 596_049_920),
        ("qwen3-8b", 8_190_735_360),
        ("gemma3-270m", 268_098_176),
        ("gemma3-1b", 999_885_952),
        ("phi3.5-3.8b", 3_821_079_552),
        ("phi4-3.8b", 3_836_021_760),
        ("phi4-14b", 14_659_507_200),
        ("olmo2-1b", 1_484_916_736),
        ("olmo2-7b", 7_298_617_344),
        ("olmo2-13b", 13_716_198_400),
        ("olmo2-32b", 32_234_279_936),
        ("olmo3-7b", 7_298_011_136),
        ("smollm3-3b", 3_075_098_624),
        ("glm4-9b", 9_400_279_040),
        ("glm4-32b", 32_566_081_536),
        ("granite3.3-2b", 2_533_539_840),
        ("granite3.3-8b", 8_170_864_640),
        ("seed-oss-36b", 36_151_104_512),
        ("exaone4-1.2b", 1_279_391_488),
        ("exaone4-32b", 32_003_216_384),
    ];

    #[test]
    fn known_shapes_have_the_parameter_counts_in_their_names() {
        for name in shape_names().filter(|name| !PUBLISHED.iter().any(|(published, _)| published == name)) {
            let config = shape(name).unwrap();
            config.validate().unwrap();
            let size = name.rsplit('-').next().unwrap();
            let (number, unit) = size.split_at(size.len() - 1);
            let billions = number.parse::<f64>().unwrap() * if unit == "t" { 1e3 } else { 1.0 };
            let parameters = Layout::new(&config).parameters() as f64 / 1e9;
            assert!((parameters / billions - 1.0).abs() < 0.15, "{name} has {parameters} B parameters");
        }
    }

    #[test]
    fn known_shapes_have_the_parameter_counts_of_the_published_models() {
        for (name, parameters) in PUBLISHED {
            let config = shape(name).unwrap();
            config.validate().unwrap();
            assert_eq!(Layout::new(&config).parameters(), parameters, "{name}");
        }
    }
}
