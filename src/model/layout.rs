//! The layout: every tensor's place in its unit. The only source of sizes and offsets in the house.
//!
//! A unit is one contiguous run of elements. The same offsets, in elements, hold in every span that belongs
//! to the unit: weights, residuals, gradients, moments, the slot on the device and the f32 accumulator.
//! Tensors that one product reads together stand together: `q|k|v` is one `[(H+2G)·D, C]` matrix and
//! `gate|up` one `[2F, C]`; their biases stand together in the same order. Every run that starts a new matrix or vector is aligned to `ALIGNMENT`
//! elements; the padding is zero and stays zero under AdamW.

use std::ops::Range;

use crate::base::{DType, PartIndex, Shape, UnitIndex};
use crate::model::decoder::{self, Sizes, UnitKind};
use crate::model::modules::HeadTask;
use crate::model::program::Program;
use crate::model::ModelConfig;
use crate::ops::Write;

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
        // Parameters are the same for all shapes.
        let sizes = Sizes { shape: Shape { b: 1, t: 1 }, logits_chunk: 1, storage: DType::Bf16 };
        let mut units = vec![unit(UnitKind::Embedding, &decoder::embedding(config, &sizes))];
        for index in 0..config.dims.l {
            let kind = UnitKind::Layer(index);
            units.push(unit(kind, &decoder::layer(config, kind, &sizes, Write::Set)));
        }
        let head = decoder::head_program(config, &sizes, HeadTask::Loss, Write::Set);
        units.push(unit(UnitKind::Head, &head));
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

    /// Every unit between the embedding and the head.
    pub fn layer_units(&self) -> impl Iterator<Item = UnitIndex> + use<> {
        (1..self.units.len() - 1).map(UnitIndex::from)
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

fn unit(kind: UnitKind, program: &Program) -> UnitLayout {
    let tensors = program.parameters().iter().map(|parameter| TensorLayout {
        name: match kind.layer() {
            Some(layer) => format!("model.layers.{layer}.{}", parameter.name),
            None => parameter.name.to_owned(),
        },
        shape: parameter.shape.clone(),
        offset: parameter.offset,
    });
    UnitLayout { kind, tensors: tensors.collect(), elements: program.elements() }
}
