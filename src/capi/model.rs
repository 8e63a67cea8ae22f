//! `hz_model_config_t`: the description of a decoder, from C, presets and Hugging Face folders.

use std::path::Path;

use crate::base::{Dims, Error, Result, Status, check_f32};
use crate::capi::argument::Text;
use crate::capi::enums::Enum;
use crate::capi::guard::guard;
use crate::capi::sized::{Out, SizedStruct, sized_struct};
use crate::capi::status::hz_status_t;
use crate::capi::values::{Values, chosen_size, flag, reserved, size};
use crate::checkpoint;
use crate::hf::FolderConfig;
use crate::model::{
    self, Biases, LAYERS_MAX, ModelConfig, Multipliers, Norms, Rope, RopeScaling, SIZE_MAX, Window,
};
use crate::ops::{Activation, NormSpan, QueryScaling};

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
        qk_norm: u32 = 0 => Values::between(0.0, 2.0),
        rope_scaling: u32 = ROPES.number(Scaling::Plain) => Values::of(&ROPES),
        rope_original_positions: u32 = 0,
        rope_factor: f64 = 0.0,
        rope_low_freq_factor: f64 = 0.0,
        rope_high_freq_factor: f64 = 0.0,
        sliding_window: u64 = 0 => Values::ANY.unit("tokens"),
        full_attention_layers: [u64; LAYER_WORDS] = [0; LAYER_WORDS],
        norms: u32 = NORMS.number(Norms::Before) => Values::of(&NORMS),
        norms_plus_one: u32 = 0 => Values::FLAG,
        activation: u32 = ACTIVATIONS.number(Activation::Silu) => Values::of(&ACTIVATIONS),
        rope_interleaved: u32 = 0 => Values::FLAG,
        rotary_dim: u64 = 0,
        sliding_rope_theta: f64 = 0.0,
        no_rope_layers: [u64; LAYER_WORDS] = [0; LAYER_WORDS],
        query_scaling_beta: f64 = 0.0,
        query_scaling_positions: u64 = 0,
        embedding_multiplier: f64 = 1.0,
        residual_multiplier: f64 = 1.0,
        attention_multiplier: f64 = 0.0,
        logits_multiplier: f64 = 1.0,
        rope_attention_factor: f64 = 1.0,
        rope_beta_fast: f64 = 32.0,
        rope_beta_slow: f64 = 1.0,
        rope_truncate: u32 = 1 => Values::FLAG,
        reserved: u32 = 0 => Values::RESERVED,
        rope_short_factor: [f64; PAIRS_MAX] = [0.0; PAIRS_MAX],
        rope_long_factor: [f64; PAIRS_MAX] = [0.0; PAIRS_MAX],
    }
}

/// `HZ_ROPE_*`.
pub(super) static ROPES: Enum<Scaling> = Enum {
    name: "hz_rope_t",
    constants: &[
        (c"HZ_ROPE_PLAIN", 0, Scaling::Plain),
        (c"HZ_ROPE_LINEAR", 1, Scaling::Linear),
        (c"HZ_ROPE_LLAMA3", 2, Scaling::Llama3),
        (c"HZ_ROPE_YARN", 3, Scaling::Yarn),
        (c"HZ_ROPE_LONG", 4, Scaling::Long),
    ],
};

/// `HZ_NORMS_*`.
pub(super) static NORMS: Enum<Norms> = Enum {
    name: "hz_norms_t",
    constants: &[
        (c"HZ_NORMS_BEFORE", 0, Norms::Before),
        (c"HZ_NORMS_AFTER", 1, Norms::After),
        (c"HZ_NORMS_AROUND", 2, Norms::Around),
    ],
};

/// `HZ_ACTIVATION_*`.
pub(super) static ACTIVATIONS: Enum<Activation> = Enum {
    name: "hz_activation_t",
    constants: &[
        (c"HZ_ACTIVATION_SILU", 0, Activation::Silu),
        (c"HZ_ACTIVATION_GELU_TANH", 1, Activation::GeluTanh),
    ],
};

/// A [`RopeScaling`] without its factors.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Scaling {
    Plain,
    Linear,
    Llama3,
    Yarn,
    Long,
}

/// A size of a model.
const SIZE: Values = Values::between(1.0, SIZE_MAX as f64);

/// Words of a set of layers, one bit per layer; layers beyond the last bit are like the last.
const LAYER_WORDS: usize = 4;

/// Most rotating pairs of a head, with LongRoPE.
const PAIRS_MAX: usize = 128;

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
        norms: NORMS.value(raw.norms, "norms")?,
        norms_plus_one: flag(raw.norms_plus_one, "norms_plus_one")?,
        activation: ACTIVATIONS.value(raw.activation, "activation")?,
        multipliers: Multipliers {
            embedding: raw.embedding_multiplier as f32,
            residual: raw.residual_multiplier as f32,
            scores: Some(raw.attention_multiplier as f32).filter(|&factor| factor != 0.0),
            logits: raw.logits_multiplier as f32,
        },
        positions_max: size(raw.max_position_embeddings, "max_position_embeddings")?,
        biases: Biases {
            qkv: flag(raw.qkv_bias, "qkv_bias")?,
            o: flag(raw.o_bias, "o_bias")?,
            mlp: flag(raw.mlp_bias, "mlp_bias")?,
        },
        qk_norm: match raw.qk_norm {
            0 => None,
            1 => Some(NormSpan::Head),
            2 => Some(NormSpan::AllHeads),
            other => return Err(Error::argument(format!("qk_norm is {other}; it must be 0, 1 or 2"))),
        },
        ..ModelConfig::llama(dims)
    };
    reserved(raw.reserved, "reserved")?;
    // Checks the layer count before sets of layers are made.
    config.validate()?;
    let config = ModelConfig { window: window(raw, dims.l)?, rope: rope(raw, &dims)?, ..config };
    config.validate()?;
    Ok(config)
}

fn rope(raw: &hz_model_config_t, dims: &Dims) -> Result<Rope> {
    let rotated = chosen_size(raw.rotary_dim, "rotary_dim")?;
    let without: Vec<bool> = (0..dims.l).map(|layer| has_layer(&raw.no_rope_layers, layer)).collect();
    Ok(Rope {
        theta: raw.rope_theta,
        scaling: rope_scaling(raw, rotated.unwrap_or(dims.d) / 2)?,
        windowed_theta: Some(raw.sliding_rope_theta).filter(|&theta| theta != 0.0),
        rotated,
        interleaved: flag(raw.rope_interleaved, "rope_interleaved")?,
        without: without.contains(&true).then_some(without),
        queries: match raw.query_scaling_beta as f32 {
            0.0 => None,
            beta => {
                let positions = size(raw.query_scaling_positions, "query_scaling_positions")?;
                Some(QueryScaling { beta, positions })
            }
        },
    })
}

fn rope_scaling(raw: &hz_model_config_t, pairs: usize) -> Result<RopeScaling> {
    let original_positions = raw.rope_original_positions as usize;
    let attention_factor = raw.rope_attention_factor;
    let truncate = flag(raw.rope_truncate, "rope_truncate")?;
    Ok(match ROPES.value(raw.rope_scaling, "rope_scaling")? {
        Scaling::Plain => RopeScaling::None,
        Scaling::Linear => RopeScaling::Linear { factor: raw.rope_factor },
        Scaling::Llama3 => RopeScaling::Llama3 {
            factor: raw.rope_factor,
            low: raw.rope_low_freq_factor,
            high: raw.rope_high_freq_factor,
            original_positions,
        },
        Scaling::Yarn => RopeScaling::Yarn {
            factor: raw.rope_factor,
            fast: raw.rope_beta_fast,
            slow: raw.rope_beta_slow,
            original_positions,
            attention_factor,
            truncate,
        },
        Scaling::Long => RopeScaling::Long {
            short: factors(&raw.rope_short_factor, pairs)?,
            long: factors(&raw.rope_long_factor, pairs)?,
            original_positions,
            attention_factor,
        },
    })
}

fn factors(all: &[f64; PAIRS_MAX], pairs: usize) -> Result<Vec<f64>> {
    all.get(..pairs).map(<[f64]>::to_vec).ok_or_else(|| {
        Error::argument(format!("{pairs} pairs of a head rotate; HZ_ROPE_LONG has factors for {PAIRS_MAX}"))
    })
}

/// The sliding window; `None` if all layers have full attention.
fn window(raw: &hz_model_config_t, layers: usize) -> Result<Option<Window>> {
    let Some(size) = chosen_size(raw.sliding_window, "sliding_window")? else { return Ok(None) };
    let layers: Vec<bool> = (0..layers).map(|layer| !has_layer(&raw.full_attention_layers, layer)).collect();
    Ok(layers.contains(&true).then_some(Window { size, layers }))
}

/// A layer's bit; beyond the last bit, the last.
fn has_layer(words: &[u64; LAYER_WORDS], layer: usize) -> bool {
    let bit = layer.min(64 * LAYER_WORDS - 1);
    words[bit / 64] >> (bit % 64) & 1 == 1
}

impl TryFrom<&ModelConfig> for hz_model_config_t {
    type Error = Error;

    /// Errors: `Unsupported` if the windows of layers beyond the last bit differ from its window.
    fn try_from(config: &ModelConfig) -> Result<Self> {
        let Dims { c, h, g, d, f, v, l } = config.dims;
        let windows = config.window.as_ref().map_or(&[][..], |window| &window.layers);
        let full_attention_layers = layer_set(windows.iter().map(|windowed| !windowed), "use the window")?;
        let without = config.rope.without.iter().flatten().copied();
        let no_rope_layers = layer_set(without, "have the rotary positions, or none,")?;
        let Multipliers { embedding, residual, scores, logits } = config.multipliers;
        let queries = config.rope.queries;
        let mut raw = hz_model_config_t {
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
            qk_norm: match config.qk_norm {
                None => 0,
                Some(NormSpan::Head) => 1,
                Some(NormSpan::AllHeads) => 2,
            },
            sliding_window: config.window.as_ref().map_or(0, |window| window.size as u64),
            full_attention_layers,
            norms: NORMS.number(config.norms),
            norms_plus_one: config.norms_plus_one.into(),
            activation: ACTIVATIONS.number(config.activation),
            rope_interleaved: config.rope.interleaved.into(),
            rotary_dim: config.rope.rotated.map_or(0, |r| r as u64),
            sliding_rope_theta: config.rope.windowed_theta.unwrap_or(0.0),
            no_rope_layers,
            query_scaling_beta: queries.map_or(0.0, |queries| queries.beta.into()),
            query_scaling_positions: queries.map_or(0, |queries| queries.positions as u64),
            embedding_multiplier: embedding.into(),
            residual_multiplier: residual.into(),
            attention_multiplier: scores.unwrap_or(0.0).into(),
            logits_multiplier: logits.into(),
            ..hz_model_config_t::defaults()
        };
        set_scaling(&mut raw, &config.rope.scaling)?;
        Ok(raw)
    }
}

/// The bits of a set of layers. Errors: `Unsupported` if layers beyond the last bit differ from its
/// layer; `as_last` says what they must have in common.
fn layer_set(layers: impl Iterator<Item = bool> + Clone, as_last: &str) -> Result<[u64; LAYER_WORDS]> {
    let mut words = [0u64; LAYER_WORDS];
    for (layer, _) in layers.clone().enumerate().take(64 * LAYER_WORDS).filter(|(_, is_in)| *is_in) {
        words[layer / 64] |= 1 << (layer % 64);
    }
    if layers.enumerate().all(|(layer, is_in)| is_in == has_layer(&words, layer)) {
        return Ok(words);
    }
    let last = 64 * LAYER_WORDS - 1;
    Err(Error::new(
        Status::Unsupported,
        format!(
            "layers above {last} must {as_last} of layer {last}: hz_model_config_t has bits for the first {} layers \
             only",
            last + 1
        ),
    ))
}

/// Sets the fields of RoPE scaling.
fn set_scaling(raw: &mut hz_model_config_t, scaling: &RopeScaling) -> Result<()> {
    let mut original = 0;
    raw.rope_scaling = ROPES.number(match scaling {
        RopeScaling::None => Scaling::Plain,
        RopeScaling::Linear { factor } => {
            raw.rope_factor = *factor;
            Scaling::Linear
        }
        RopeScaling::Llama3 { factor, low, high, original_positions } => {
            (raw.rope_factor, raw.rope_low_freq_factor, raw.rope_high_freq_factor) = (*factor, *low, *high);
            original = *original_positions;
            Scaling::Llama3
        }
        RopeScaling::Yarn { factor, fast, slow, original_positions, attention_factor, truncate } => {
            (raw.rope_factor, raw.rope_beta_fast, raw.rope_beta_slow) = (*factor, *fast, *slow);
            (raw.rope_attention_factor, raw.rope_truncate) = (*attention_factor, (*truncate).into());
            original = *original_positions;
            Scaling::Yarn
        }
        RopeScaling::Long { short, long, original_positions, attention_factor } => {
            for (all, factors) in [(&mut raw.rope_short_factor, short), (&mut raw.rope_long_factor, long)] {
                let pairs = factors.len();
                let first = all.get_mut(..pairs).ok_or_else(|| {
                    let message = format!("LongRoPE with {pairs} pairs; hz_model_config_t has {PAIRS_MAX}");
                    Error::new(Status::Unsupported, message)
                })?;
                first.copy_from_slice(factors);
            }
            raw.rope_attention_factor = *attention_factor;
            original = *original_positions;
            Scaling::Long
        }
    });
    raw.rope_original_positions = u32::try_from(original).map_err(|_| {
        Error::argument(format!("original_max_position_embeddings is {original}; it must fit 32 bits"))
    })?;
    Ok(())
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
    fn every_option_survives_the_conversion_to_c_and_back() {
        let dims = Dims { c: 8, h: 2, g: 1, d: 8, f: 12, v: 16, l: 300 };
        let of_layers = |period: usize| (0..300).map(|layer| layer % period == 0 && layer < 255).collect();
        let yarn = RopeScaling::Yarn {
            factor: 4.0,
            fast: 16.0,
            slow: 2.0,
            original_positions: 64,
            attention_factor: 1.25,
            truncate: false,
        };
        let long = RopeScaling::Long {
            short: vec![1.0, 1.5, 2.0, 2.5],
            long: vec![3.0; 4],
            original_positions: 32,
            attention_factor: 1.5,
        };
        for (scaling, rotated, norms) in [(yarn, Some(4), Norms::After), (long, None, Norms::Around)] {
            let config = ModelConfig {
                norms,
                norms_plus_one: true,
                activation: Activation::GeluTanh,
                qk_norm: Some(NormSpan::AllHeads),
                window: Some(Window { size: 9, layers: of_layers(2) }),
                rope: Rope {
                    theta: 500.0,
                    scaling,
                    windowed_theta: Some(20.0),
                    rotated,
                    interleaved: true,
                    without: Some(of_layers(3)),
                    queries: Some(QueryScaling { beta: 0.5, positions: 7 }).filter(|_| rotated.is_none()),
                },
                multipliers: Multipliers { embedding: 2.0, residual: 0.5, scores: Some(0.25), logits: 0.125 },
                ..ModelConfig::llama(dims)
            };
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
