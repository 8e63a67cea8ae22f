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
use crate::ops::NORM_BLOCK;

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

    /// Each tensor with the padding after it, in order; together they are the unit. The padding is zero, so a run has the
    /// norm of its tensor.
    pub fn runs(&self) -> impl Iterator<Item = Run> + '_ {
        let ends = self.tensors.iter().skip(1).map(|tensor| tensor.offset).chain([self.elements]);
        self.tensors.iter().zip(ends).scan(0, |blocks, (tensor, end)| {
            let start = *blocks;
            *blocks += (end - tensor.offset).div_ceil(NORM_BLOCK);
            Some(Run { elements: tensor.offset..end, blocks: start..*blocks })
        })
    }

    /// Blocks of the gradient's norm.
    pub fn norm_blocks(&self) -> usize {
        self.runs().last().map_or(0, |run| run.blocks.end)
    }
}

/// A tensor with the padding after it, or a piece of one that starts at the border of a block of its norm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Elements within the unit.
    pub elements: Range<usize>,
    /// Blocks of the norm of these elements, among those of the unit.
    pub blocks: Range<usize>,
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

    /// Elements of the longest decoder layer: the size of a slot.
    pub fn layer_elements(&self) -> usize {
        self.units[1].elements
    }

    /// Elements of the longest part of a gradient: the size of a slab.
    pub fn slab_elements(&self) -> usize {
        let longest = |unit| self.cut(unit).map(|part| part.len()).max().unwrap_or(0);
        self.indices().map(longest).fold(0, usize::max)
    }

    /// Number of parts in which a unit's gradient leaves the device; a layer has one.
    pub fn parts(&self, unit: UnitIndex) -> usize {
        self.cut(unit).count()
    }

    /// The elements of a unit that a part covers.
    ///
    /// # Panics
    /// If the unit has no such part.
    pub fn part(&self, unit: UnitIndex, part: PartIndex) -> Range<usize> {
        self.cut(unit).nth(part.at()).expect("the unit has this part")
    }

    /// A part's pieces of the unit's runs, in order; together they are the part.
    pub fn part_runs(&self, unit: UnitIndex, part: PartIndex) -> impl Iterator<Item = Run> + '_ {
        let part = self.part(unit, part);
        self.unit(unit).runs().filter_map(move |Run { elements, blocks }| {
            let (start, end) = (elements.start.max(part.start), elements.end.min(part.end));
            let block = blocks.start + start.saturating_sub(elements.start) / NORM_BLOCK;
            let count = end.saturating_sub(start).div_ceil(NORM_BLOCK);
            (start < end).then_some(Run { elements: start..end, blocks: block..block + count })
        })
    }

    /// Parts of a unit, each as long as possible: at most a layer, or a block where a layer is shorter, ending at a tensor's
    /// end or at the border of a block of a norm.
    fn cut(&self, unit: UnitIndex) -> impl Iterator<Item = Range<usize>> + '_ {
        let unit = self.unit(unit);
        let longest = self.layer_elements().max(NORM_BLOCK);
        let part = move |start: usize| {
            if start == unit.elements {
                return None;
            }
            let most = start + longest;
            let end = if unit.elements <= most {
                unit.elements
            } else {
                let offsets = unit.tensors.iter().map(|tensor| tensor.offset);
                let tensor = offsets.take_while(|&offset| offset <= most).last().unwrap_or(0);
                tensor + (most - tensor) / NORM_BLOCK * NORM_BLOCK
            };
            Some(start..end)
        };
        std::iter::successors(part(0), move |before| part(before.end))
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
