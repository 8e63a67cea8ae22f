//! The layout: every tensor's place in its unit. The only source of sizes and offsets in the house.
//!
//! A unit is one contiguous run of elements. The same offsets, in elements, hold in every span that belongs
//! to the unit: weights, residuals, gradients, moments, the slot on the device and the f32 accumulator.
//! Tensors that one product reads together stand together: `q|k|v` is one `[(H+2G)·D, C]` matrix and
//! `gate|up` one `[2F, C]`; their biases stand together in the same order. Every run that starts a new matrix or vector is aligned to `ALIGNMENT`
//! elements; the padding is zero and stays zero under AdamW.

use std::ops::Range;

use crate::base::{Dims, PartIndex, UnitIndex};
use crate::model::ModelConfig;

/// Elements: 256 bytes of bf16, so that rows of any storage type start on cache lines.
pub const ALIGNMENT: usize = 128;

/// What a unit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitKind {
    /// The token embedding, unit 0.
    Embedding,
    /// Decoder layer `l`, unit l + 1.
    Layer(usize),
    /// Final norm and, unless tied, the LM head; unit L + 1.
    Head,
}

/// One named tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorLayout {
    /// The Hugging Face name, e.g. `model.layers.3.self_attn.q_proj.weight`.
    pub name: String,
    /// Rows and columns `[out, in]`, or `[C]`.
    pub shape: Vec<usize>,
    /// First element within the unit.
    pub offset: usize,
}

impl TensorLayout {
    /// Elements of the tensor.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Weight decay applies to tensors of two or more dimensions.
    pub fn decays(&self) -> bool {
        self.shape.len() >= 2
    }
}

/// One unit: its tensors and its length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitLayout {
    /// What it is.
    pub kind: UnitKind,
    /// Its tensors, by offset.
    pub tensors: Vec<TensorLayout>,
    /// Elements including padding; a multiple of `ALIGNMENT`.
    pub elements: usize,
}

impl UnitLayout {
    /// The offset of the tensor whose name ends in `suffix`.
    ///
    /// # Panics
    /// If the unit has no such tensor.
    pub fn offset(&self, suffix: &str) -> usize {
        self.tensors.iter().find(|t| t.name.ends_with(suffix)).expect("the unit has this tensor").offset
    }
}

/// All units of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Embedding, layers, head.
    pub units: Vec<UnitLayout>,
    /// Whether the head reads the embedding's weights.
    pub tied: bool,
}

impl Layout {
    /// The layout of a model.
    pub fn new(config: &ModelConfig) -> Self {
        let (Dims { c, d, f, v, l, .. }, biases) = (config.dims, config.biases);
        let (attended, kv) = (config.dims.attended(), config.dims.g * d);
        let mut units = Vec::with_capacity(l + 2);
        let whole = |name: &str| name.to_owned();
        let embedding: Group = &[("model.embed_tokens.weight", &[v, c])];
        units.push(unit(UnitKind::Embedding, [embedding], whole));
        for layer in 0..l {
            let at = |name: &str| format!("model.layers.{layer}.{name}");
            let groups: [(bool, Group); 12] = [
                (true, &[("input_layernorm.weight", &[c])]),
                (
                    true,
                    &[
                        ("self_attn.q_proj.weight", &[attended, c]),
                        ("self_attn.k_proj.weight", &[kv, c]),
                        ("self_attn.v_proj.weight", &[kv, c]),
                    ],
                ),
                (
                    biases.qkv,
                    &[
                        ("self_attn.q_proj.bias", &[attended]),
                        ("self_attn.k_proj.bias", &[kv]),
                        ("self_attn.v_proj.bias", &[kv]),
                    ],
                ),
                (config.qk_norm, &[("self_attn.q_norm.weight", &[d])]),
                (config.qk_norm, &[("self_attn.k_norm.weight", &[d])]),
                (true, &[("self_attn.o_proj.weight", &[c, attended])]),
                (biases.o, &[("self_attn.o_proj.bias", &[c])]),
                (true, &[("post_attention_layernorm.weight", &[c])]),
                (true, &[("mlp.gate_proj.weight", &[f, c]), ("mlp.up_proj.weight", &[f, c])]),
                (biases.mlp, &[("mlp.gate_proj.bias", &[f]), ("mlp.up_proj.bias", &[f])]),
                (true, &[("mlp.down_proj.weight", &[c, f])]),
                (biases.mlp, &[("mlp.down_proj.bias", &[c])]),
            ];
            let there = groups.into_iter().filter_map(|(there, group)| there.then_some(group));
            units.push(unit(UnitKind::Layer(layer), there, at));
        }
        let norm: Group = &[("model.norm.weight", &[c])];
        let lm: Group = &[("lm_head.weight", &[v, c])];
        let lm = (!config.tied).then_some(lm);
        units.push(unit(UnitKind::Head, [norm].into_iter().chain(lm), whole));
        Layout { units, tied: config.tied }
    }

    /// L: decoder layers.
    pub fn layers(&self) -> usize {
        self.units.len() - 2
    }

    /// The embedding's index.
    pub fn embedding(&self) -> UnitIndex {
        UnitIndex(0)
    }

    /// The head's index.
    pub fn head(&self) -> UnitIndex {
        UnitIndex::from(self.units.len() - 1)
    }

    /// The unit of decoder layer `layer`.
    pub fn layer(&self, layer: usize) -> UnitIndex {
        UnitIndex::from(layer + 1)
    }

    /// The layout of one unit.
    pub fn unit(&self, unit: UnitIndex) -> &UnitLayout {
        &self.units[unit.at()]
    }

    /// Every unit's index, in forward order.
    pub fn indices(&self) -> impl DoubleEndedIterator<Item = UnitIndex> + use<> {
        (0..self.units.len()).map(UnitIndex::from)
    }

    /// Elements of the longest decoder layer: the size of a slot and of a slab.
    pub fn layer_elements(&self) -> usize {
        self.units[1].elements
    }

    /// Pieces of at most one slab that a unit's gradient leaves the device in; a layer has one.
    pub fn parts(&self, unit: UnitIndex) -> usize {
        self.unit(unit).elements.div_ceil(self.layer_elements())
    }

    /// The elements of a unit that a part covers.
    pub fn part(&self, unit: UnitIndex, part: PartIndex) -> Range<usize> {
        let slab = self.layer_elements();
        let start = part.at() * slab;
        start..(start + slab).min(self.unit(unit).elements)
    }

    /// P: parameters, padding not counted.
    pub fn parameters(&self) -> usize {
        self.units.iter().flat_map(|u| &u.tensors).map(TensorLayout::elements).sum()
    }

    /// Elements of all units, padding counted.
    pub fn elements(&self) -> usize {
        self.units.iter().map(|u| u.elements).sum()
    }

    /// The tensor of a Hugging Face name, with its unit.
    pub fn find(&self, name: &str) -> Option<(UnitIndex, &TensorLayout)> {
        self.tensors().find(|(_, tensor)| tensor.name == name)
    }

    /// Every tensor, in forward order.
    pub fn tensors(&self) -> impl Iterator<Item = (UnitIndex, &TensorLayout)> {
        self.units
            .iter()
            .enumerate()
            .flat_map(|(index, unit)| unit.tensors.iter().map(move |t| (UnitIndex::from(index), t)))
    }
}

/// Tensors that stand together without padding between them.
type Group<'a> = &'a [(&'a str, &'a [usize])];

fn unit<'a>(
    kind: UnitKind,
    groups: impl IntoIterator<Item = Group<'a>>,
    name: impl Fn(&str) -> String,
) -> UnitLayout {
    let mut tensors = Vec::new();
    let mut elements = 0usize;
    for group in groups {
        for &(suffix, shape) in group {
            let tensor = TensorLayout { name: name(suffix), shape: shape.to_vec(), offset: elements };
            elements += tensor.elements();
            tensors.push(tensor);
        }
        elements = elements.next_multiple_of(ALIGNMENT);
    }
    UnitLayout { kind, tensors, elements }
}
