//! The layout: every tensor's place in its unit. The only source of sizes and offsets.
//!
//! A unit is one contiguous run of elements. The same offsets, in elements, hold in every span that belongs
//! to the unit: weights, residuals, gradients, moments, the slot on the device and the f32 accumulator.
//! Tensors that one product reads together stand together: `q|k|v` is one `[(H+2G)·D, C]` matrix and
//! `gate|up` one `[2F, C]`; their biases stand together in the same order. Every run that starts a new matrix or vector is aligned to `ALIGNMENT`
//! elements; the padding is zero and stays zero under AdamW.

use std::ops::Range;

use crate::base::{ChunkIndex, UnitIndex};
use crate::model::ModelConfig;
use crate::model::decoder::{self, Sizes, UnitKind};
use crate::model::modules::HeadTask;
use crate::model::program::Program;
use crate::ops::{NORM_BLOCK, Write};

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

    /// Parts of the unit, each as long as possible: at most `longest` elements, ending at a tensor's end or at the border of a
    /// block of a norm.
    fn cut(&self, longest: usize) -> Vec<Range<usize>> {
        let mut chunks = Vec::new();
        let mut start = 0;
        while start < self.elements {
            let most = start + longest;
            let end = if self.elements <= most {
                self.elements
            } else {
                let offsets = self.tensors.iter().map(|tensor| tensor.offset);
                let tensor = offsets.take_while(|&offset| offset <= most).last().unwrap_or(0);
                tensor + (most - tensor) / NORM_BLOCK * NORM_BLOCK
            };
            chunks.push(start..end);
            start = end;
        }
        chunks
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
    layer_elements: usize,
    /// By unit: the parts in which its gradient leaves the device.
    chunks: Vec<Vec<Range<usize>>>,
}

impl Layout {
    /// The layout of a model.
    pub fn new(config: &ModelConfig) -> Self {
        let sizes = Sizes::ONE_ROW;
        let mut units = vec![unit(UnitKind::Embedding, &decoder::embedding(config, &sizes))];
        let kinds: &[fn(usize) -> UnitKind] =
            if config.split_layers { &[UnitKind::Attention, UnitKind::Mlp] } else { &[UnitKind::Layer] };
        // All layers have the same parameters.
        let program = |kind: &fn(usize) -> UnitKind| decoder::layer(config, kind(0), &sizes, Write::Set);
        let programs: Vec<Program> = kinds.iter().map(program).collect();
        for index in 0..config.dims.l {
            units.extend(kinds.iter().zip(&programs).map(|(kind, program)| unit(kind(index), program)));
        }
        let head = decoder::head_program(config, &sizes, HeadTask::Loss, Write::Set);
        units.push(unit(UnitKind::Head, &head));
        let layers = &units[1..units.len() - 1];
        let layer_elements = layers.iter().map(|unit| unit.elements).fold(0, usize::max);
        let chunks = units.iter().map(|unit| unit.cut(layer_elements.max(NORM_BLOCK))).collect();
        Layout { units, tied: config.tied, layer_elements, chunks }
    }

    /// Units between embedding and head: the decoder layers, or their halves. Schedules and placements call these layers.
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

    /// The `layer`-th unit after the embedding.
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

    /// Elements of the longest unit between embedding and head: the size of a slot.
    pub fn layer_elements(&self) -> usize {
        self.layer_elements
    }

    /// Elements of the longest part of a gradient: the size of a slab. A part is at most a layer, or a block where a layer is shorter.
    pub fn slab_elements(&self) -> usize {
        self.chunks.iter().flatten().map(|chunk| chunk.len()).fold(0, usize::max)
    }

    /// Number of parts in which a unit's gradient leaves the device; a layer has one.
    pub fn chunks(&self, unit: UnitIndex) -> usize {
        self.chunks[unit.at()].len()
    }

    /// The elements of a unit that a part covers.
    ///
    /// # Panics
    /// If the unit has no such part.
    pub fn chunk(&self, unit: UnitIndex, chunk: ChunkIndex) -> Range<usize> {
        self.chunks[unit.at()][chunk.at()].clone()
    }

    /// A part's pieces of the unit's runs, in order; together they are the part.
    pub fn chunk_runs(&self, unit: UnitIndex, chunk: ChunkIndex) -> impl Iterator<Item = Run> + '_ {
        let chunk = self.chunk(unit, chunk);
        self.unit(unit).runs().filter_map(move |Run { elements, blocks }| {
            let (start, end) = (elements.start.max(chunk.start), elements.end.min(chunk.end));
            let block = blocks.start + start.saturating_sub(elements.start) / NORM_BLOCK;
            let count = end.saturating_sub(start).div_ceil(NORM_BLOCK);
            (start < end).then_some(Run { elements: start..end, blocks: block..block + count })
        })
    }

    /// V and C: rows and columns of the embedding.
    pub fn embedding_shape(&self) -> [usize; 2] {
        let shape = &self.units[0].tensors[0].shape;
        [shape[0], shape[1]]
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
