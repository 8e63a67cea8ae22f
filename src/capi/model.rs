//! `hz_model_config_t`: the description of a decoder, from C, presets and Hugging Face folders.

use std::path::Path;

use crate::base::{Dims, Error, Result, Status, check_f32};
use crate::capi::argument::Text;
use crate::capi::enums::Enum;
use crate::capi::guard::guard;
use crate::capi::sized::{Out, SizedStruct, sized_struct};
use crate::capi::status::hz_status_t;
use crate::capi::values::{Values, chosen_size, flag, size};
use crate::checkpoint;
use crate::hf::FolderConfig;
use crate::model::{self, Biases, LAYERS_MAX, ModelConfig, Rope, RopeScaling, SIZE_MAX, Window};
use crate::ops::NormSpan;

sized_struct! {
    hz_model_config_t, hz_model_config_init {
        tie_word_embeddings: u32 = 0 => Values::FLAG,
        vocab_size: u64 = 0 => SIZE,
        hidden_size: u64 = 0 => SIZE,
        intermediate_size: u64 = 0 => SIZE,
        num_hidden_layers: u64 = 0 => Values::between(1.0, LAYERS_MAX as f64),
        num_attention_heads: u64 = 0 => SIZE,
        num_key_value_heads: u64 = 0 => SIZE.or(0.0),
        head_dim: u64 = 0 => Values::between(2.0, SIZE_MAX as f64).or(0.0),
        max_position_embeddings: u64 = 0 => Values::at_least(1.0).unit("tokens"),
        rms_norm_eps: f64 = 1e-5 => Values::f32_at_least(0.0),
        rope_theta: f64 = 10_000.0,
        qkv_bias: u32 = 0 => Values::FLAG,
        o_bias: u32 = 0 => Values::FLAG,
        mlp_bias: u32 = 0 => Values::FLAG,
        qk_norm: u32 = 0 => Values::FLAG,
        rope_scaling: u32 = ROPES.number(Scaling::Plain) => Values::of(&ROPES),
        rope_original_positions: u32 = 0,
        rope_factor: f64 = 0.0,
        rope_low_freq_factor: f64 = 0.0,
        rope_high_freq_factor: f64 = 0.0,
        sliding_window: u64 = 0 => Values::ANY.unit("tokens"),
        full_attention_layers: [u64; LAYER_WORDS] = [0; LAYER_WORDS],
    }
}

/// `HZ_ROPE_*`.
pub(super) static ROPES: Enum<Scaling> = Enum {
    name: "hz_rope_t",
    constants: &[
        (c"HZ_ROPE_PLAIN", 0, Scaling::Plain),
        (c"HZ_ROPE_LINEAR", 1, Scaling::Linear),
        (c"HZ_ROPE_LLAMA3", 2, Scaling::Llama3),
    ],
};

/// A [`RopeScaling`] without its factors.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Scaling {
    Plain,
    Linear,
    Llama3,
}

/// A size of a model.
const SIZE: Values = Values::between(1.0, SIZE_MAX as f64);

/// Words of `full_attention_layers`, one bit per layer; layers beyond the last bit are like the
/// last.
const LAYER_WORDS: usize = 4;

/// Converts and validates a model.
pub fn model_config(raw: &hz_model_config_t) -> Result<ModelConfig> {
    let heads = size(raw.num_attention_heads, "num_attention_heads")?;
    let width = size(raw.hidden_size, "hidden_size")?;
    if width == 0 {
        return Err(Error::argument(
            "hidden_size is 0: fill in the model, or take one from hz_model_config_from_preset or \
             hz_model_config_from_hf",
        ));
    }
    check_f32("rms_norm_eps", raw.rms_norm_eps, 0.0)?;
    let d = match chosen_size(raw.head_dim, "head_dim")? {
        Some(d) => d,
        None if heads > 0 && width % heads == 0 => width / heads,
        None => {
            return Err(Error::argument(format!(
                "hidden_size is {width}; without head_dim it must be a multiple of num_attention_heads, {heads}"
            )));
        }
    };
    let dims = Dims {
        c: width,
        h: heads,
        g: chosen_size(raw.num_key_value_heads, "num_key_value_heads")?.unwrap_or(heads),
        d,
        f: size(raw.intermediate_size, "intermediate_size")?,
        v: size(raw.vocab_size, "vocab_size")?,
        l: size(raw.num_hidden_layers, "num_hidden_layers")?,
    };
    let config = ModelConfig {
        tied: flag(raw.tie_word_embeddings, "tie_word_embeddings")?,
        norm_eps: raw.rms_norm_eps as f32,
        rope: Rope { theta: raw.rope_theta, scaling: rope_scaling(raw)?, ..Rope::default() },
        positions_max: size(raw.max_position_embeddings, "max_position_embeddings")?,
        biases: Biases {
            qkv: flag(raw.qkv_bias, "qkv_bias")?,
            o: flag(raw.o_bias, "o_bias")?,
            mlp: flag(raw.mlp_bias, "mlp_bias")?,
        },
        qk_norm: flag(raw.qk_norm, "qk_norm")?.then_some(NormSpan::Head),
        ..ModelConfig::llama(dims)
    };
    // Checks the layer count before `window` makes one entry per layer.
    config.validate()?;
    let config = ModelConfig { window: window(raw, dims.l)?, ..config };
    config.validate()?;
    Ok(config)
}

fn rope_scaling(raw: &hz_model_config_t) -> Result<RopeScaling> {
    Ok(match ROPES.value(raw.rope_scaling, "rope_scaling")? {
        Scaling::Plain => RopeScaling::None,
        Scaling::Linear => RopeScaling::Linear { factor: raw.rope_factor },
        Scaling::Llama3 => RopeScaling::Llama3 {
            factor: raw.rope_factor,
            low: raw.rope_low_freq_factor,
            high: raw.rope_high_freq_factor,
            original_positions: raw.rope_original_positions as usize,
        },
    })
}

/// The sliding window; `None` if all layers have full attention.
fn window(raw: &hz_model_config_t, layers: usize) -> Result<Option<Window>> {
    let Some(size) = chosen_size(raw.sliding_window, "sliding_window")? else { return Ok(None) };
    let layers: Vec<bool> =
        (0..layers).map(|layer| !has_full_attention(&raw.full_attention_layers, layer)).collect();
    Ok(layers.contains(&true).then_some(Window { size, layers }))
}

/// A layer's bit; beyond the last bit, the last.
fn has_full_attention(words: &[u64; LAYER_WORDS], layer: usize) -> bool {
    let bit = layer.min(64 * LAYER_WORDS - 1);
    words[bit / 64] >> (bit % 64) & 1 == 1
}

impl TryFrom<&ModelConfig> for hz_model_config_t {
    type Error = Error;

    /// Errors: `Unsupported` if the windows of layers beyond the last bit differ from its window.
    fn try_from(config: &ModelConfig) -> Result<Self> {
        let Dims { c, h, g, d, f, v, l } = config.dims;
        let (rope_scaling, [factor, low, high], original) = match config.rope.scaling {
            RopeScaling::None => (Scaling::Plain, [0.0; 3], 0),
            RopeScaling::Linear { factor } => (Scaling::Linear, [factor, 0.0, 0.0], 0),
            RopeScaling::Llama3 { factor, low, high, original_positions } => {
                (Scaling::Llama3, [factor, low, high], original_positions)
            }
            RopeScaling::Yarn { .. } | RopeScaling::Long { .. } => todo!(),
        };
        let mut full_attention_layers = [0u64; LAYER_WORDS];
        let windows = config.window.as_ref().map_or(&[][..], |window| &window.layers);
        for (layer, _) in
            windows.iter().enumerate().take(64 * LAYER_WORDS).filter(|(_, windowed)| !**windowed)
        {
            full_attention_layers[layer / 64] |= 1 << (layer % 64);
        }
        let fits = |(layer, &windowed): (usize, &bool)| {
            windowed != has_full_attention(&full_attention_layers, layer)
        };
        if !windows.iter().enumerate().all(fits) {
            let last = 64 * LAYER_WORDS - 1;
            return Err(Error::new(
                Status::Unsupported,
                format!(
                    "layers above {last} must use the same window as layer {last}: hz_model_config_t has bits for the \
                     first {} layers only",
                    last + 1
                ),
            ));
        }
        Ok(hz_model_config_t {
            tie_word_embeddings: config.tied.into(),
            vocab_size: v as u64,
            hidden_size: c as u64,
            intermediate_size: f as u64,
            num_hidden_layers: l as u64,
            num_attention_heads: h as u64,
            num_key_value_heads: g as u64,
            head_dim: d as u64,
            max_position_embeddings: config.positions_max as u64,
            rms_norm_eps: f64::from(config.norm_eps),
            rope_theta: config.rope.theta,
            qkv_bias: config.biases.qkv.into(),
            o_bias: config.biases.o.into(),
            mlp_bias: config.biases.mlp.into(),
            qk_norm: config.qk_norm.is_some().into(),
            rope_scaling: ROPES.number(rope_scaling),
            rope_original_positions: u32::try_from(original).map_err(|_| {
                Error::argument(format!(
                    "original_max_position_embeddings is {original}; it must fit 32 bits"
                ))
            })?,
            rope_factor: factor,
            rope_low_freq_factor: low,
            rope_high_freq_factor: high,
            sliding_window: config.window.as_ref().map_or(0, |window| window.size as u64),
            full_attention_layers,
            ..hz_model_config_t::defaults()
        })
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_model_config_from_preset(name: Text, out_config: Out<hz_model_config_t>) -> hz_status_t {
    guard(|| {
        let name = name.get("name")?;
        let out = out_config.check("out_config")?;
        let config = model::shape(name).ok_or_else(|| {
            let names: Vec<_> = model::preset_names().iter().copied().chain(model::shape_names()).collect();
            let message = format!("no preset is named `{name}`; choose one of {}", names.join(", "));
            Error::new(Status::NotFound, message)
        })?;
        out.write(hz_model_config_t::try_from(&config)?);
        Ok(())
    })
}

/// Opens the configuration of a model's folder, or of the latest checkpoint of a folder of
/// checkpoints.
fn folder_config(folder: &Path) -> Result<FolderConfig> {
    match FolderConfig::open(folder) {
        Err(error) if error.status() == Status::NotFound => match checkpoint::open(folder) {
            Err(none) if none.status() == Status::NotFound => Err(error),
            latest => FolderConfig::open(latest?.folder()),
        },
        config => config,
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn hz_model_config_from_hf(folder: Text, out_config: Out<hz_model_config_t>) -> hz_status_t {
    guard(|| {
        let folder = folder.path("folder")?;
        let out = out_config.check("out_config")?;
        out.write(hz_model_config_t::try_from(&folder_config(folder)?.model)?);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_survive_the_conversion_to_c_and_back() {
        for name in model::preset_names() {
            let config = model::preset(name).unwrap();
            assert_eq!(model_config(&hz_model_config_t::try_from(&config).unwrap()).unwrap(), config);
        }
    }

    #[test]
    fn sizes_left_at_zero_are_derived_or_refused() {
        let mut raw = hz_model_config_t::try_from(&model::preset("tiny").unwrap()).unwrap();
        (raw.head_dim, raw.num_key_value_heads) = (0, 0);
        let config = model_config(&raw).unwrap();
        assert_eq!((config.dims.d, config.dims.g), (config.dims.c / config.dims.h, config.dims.h));
        raw.num_attention_heads = 0;
        let error = model_config(&raw).unwrap_err();
        assert!(error.message().contains("num_attention_heads"), "{error}");
    }

    #[test]
    fn windows_survive_the_conversion_to_c_and_back() {
        let dims = Dims { c: 8, h: 2, g: 1, d: 4, f: 12, v: 16, l: 300 };
        let with = |layers: Vec<bool>| ModelConfig {
            biases: Biases { qkv: true, o: false, mlp: false },
            rope: Rope {
                scaling: RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original_positions: 8192 },
                ..Rope::default()
            },
            window: Some(Window { size: 7, layers }),
            ..ModelConfig::llama(dims)
        };
        let from = |first: usize| (0..300).map(|layer| layer >= first).collect::<Vec<_>>();
        let every_third = (0..300).map(|layer| layer % 3 == 0 && layer < 255).collect();
        for layers in [from(0), from(1), from(255), every_third] {
            let config = with(layers);
            assert_eq!(model_config(&hz_model_config_t::try_from(&config).unwrap()).unwrap(), config);
        }
        let error = hz_model_config_t::try_from(&with(from(256))).unwrap_err();
        assert!(error.status() == Status::Unsupported && error.message().contains("255"), "{error}");
        // Without full_attention_layers every layer has the window.
        let raw = hz_model_config_t {
            sliding_window: 9,
            ..hz_model_config_t::try_from(&ModelConfig::llama(dims)).unwrap()
        };
        assert_eq!(model_config(&raw).unwrap().window, Some(Window { size: 9, layers: from(0) }));
    }
}
