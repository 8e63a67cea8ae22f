//! The layout: the position of every tensor in its unit. The only source of sizes and offsets.
//!
//! A unit is one contiguous range of elements. Its element offsets are the same in all of the
//! unit's spans: weights, residuals, gradients, moments, the slot on the device and the f32
//! accumulator. Tensors read by one matmul are adjacent: `q|k|v` is one `[(H+2G)·D, C]` matrix and
//! `gate|up` one `[2F, C]`; their biases are adjacent in the same order. Each such group of tensors
//! is aligned to `ALIGNMENT` elements; the padding is zero and stays zero under AdamW.

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
    /// The name, e.g. `model.layers.3.self_attn.q_proj.weight`: as in Hugging Face's Llama, with one
    /// set of names for all families.
    pub name: String,
    /// Rows and columns `[out, in]`, or `[C]`.
    pub shape: Vec<usize>,
    /// The first element within the unit.
    pub offset: usize,
}

impl TensorLayout {
    /// Elements of the tensor.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Returns true if weight decay applies: to tensors of two or more dimensions.
    pub fn decays(&self) -> bool {
        self.shape.len() >= 2
    }
}

/// A unit: its tensors and its length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitLayout {
    /// The kind of unit.
    pub kind: UnitKind,
    /// The tensors, sorted by offset.
    pub tensors: Vec<TensorLayout>,
    /// Elements including padding; a multiple of `ALIGNMENT`.
    pub elements: usize,
}

impl UnitLayout {
    /// The runs of the unit: each tensor with the padding after it, in order; together they cover
    /// the unit. Padding is zero, so a run has the norm of its tensor.
    pub fn runs(&self) -> impl Iterator<Item = Run> + '_ {
        let ends = self.tensors.iter().skip(1).map(|tensor| tensor.offset).chain([self.elements]);
        self.tensors.iter().zip(ends).scan(0, |blocks, (tensor, end)| {
            let start = *blocks;
            *blocks += (end - tensor.offset).div_ceil(NORM_BLOCK);
            Some(Run { elements: tensor.offset..end, blocks: start..*blocks })
        })
    }

    /// Cuts the unit into chunks of at most `longest` elements, each as long as possible, that end
    /// at the end of a tensor or of a norm block.
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

    /// Number of blocks of the gradient norm.
    pub fn norm_blocks(&self) -> usize {
        self.runs().last().map_or(0, |run| run.blocks.end)
    }
}

/// A tensor with the padding after it, or a part of one that starts at a norm block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Elements within the unit.
    pub elements: Range<usize>,
    /// The norm blocks of these elements, as indices within the unit.
    pub blocks: Range<usize>,
}

/// All units of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Embedding, layers, head.
    pub units: Vec<UnitLayout>,
    /// True if the head uses the embedding's weights.
    pub tied: bool,
    layer_elements: usize,
    /// By unit: the chunks in which its gradient is downloaded.
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

    /// Units between embedding and head: decoder layers, or their halves. Schedules and placements
    /// call them layers.
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

    /// Elements of the longest unit between embedding and head: the size of a weight slot.
    pub fn layer_elements(&self) -> usize {
        self.layer_elements
    }

    /// Elements of the longest gradient chunk: the size of a slab. At most a layer, or a norm block
    /// if layers are shorter.
    pub fn slab_elements(&self) -> usize {
        self.chunks.iter().flatten().map(|chunk| chunk.len()).fold(0, usize::max)
    }

    /// Number of chunks in which a unit's gradient is downloaded; 1 for a layer.
    pub fn chunks(&self, unit: UnitIndex) -> usize {
        self.chunks[unit.at()].len()
    }

    /// The elements of a chunk within its unit.
    ///
    /// # Panics
    /// If the unit has no such chunk.
    pub fn chunk(&self, unit: UnitIndex, chunk: ChunkIndex) -> Range<usize> {
        self.chunks[unit.at()][chunk.at()].clone()
    }

    /// The parts of the unit's runs that are in a chunk, in order; together they cover the chunk.
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

    /// P: parameters, without padding.
    pub fn parameters(&self) -> usize {
        self.units.iter().flat_map(|u| &u.tensors).map(TensorLayout::elements).sum()
    }

    /// Elements of all units, with padding.
    pub fn elements(&self) -> usize {
        self.units.iter().map(|u| u.elements).sum()
    }

    /// Finds a tensor and its unit by name.
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
