//! The store: the host-resident model. Except for `calibrate`, this is the engine's only file that
//! accesses host memory.
//!
//! **Access rule.** The store owns the arenas but does not synchronize access. A function that
//! reads or writes memory is called by an operation that declares the resource, or by the calling
//! thread after `sync` and `check` have admitted the access ([the engine](super)).
#![allow(unsafe_code)]

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use parking_lot::Mutex;

use crate::base::format::several;
use crate::base::{
    ChunkIndex, DType, Error, MicroIndex, MicroSlotIndex, Name, Result, Shape, Status, UnitIndex, filled,
    master, phrase, with_capacity,
};
use crate::device::Device;
use crate::engine::batch::{Batch, Padded};
use crate::engine::derived::Derived;
use crate::engine::gather::Numbers;
use crate::engine::save::{Fill, StateSpan, UnitState};
use crate::engine::slices::TensorSlice;
use crate::host::{Arena, HostSpan, MemoryKind, Plain, Pool};
use crate::model::{Layout, Run, TensorLayout};
use crate::optim::{self, Master, Optimizer, STATE_ARRAYS_MAX, Spans, Step};
use crate::plan::{ArenaRange, HostMap, Plan};
use crate::schedule::GradientBuffer;

/// Weights, residuals, gradients and moments of every unit, and the staging buffers.
pub struct Store {
    layout: Layout,
    map: HostMap,
    /// The shape of a full micro-batch.
    shape: Shape,
    stores_gradients: bool,
    grad_dtype: DType,
    optimizer: Optimizer,
    wire: Arena,
    state: Arena,
    /// `[N]`: the target weights of a batch without weights.
    ones: Vec<f32>,
    /// Scratch for staging a batch.
    derived: Mutex<Derived>,
    /// Distinct tokens of each staged micro-batch.
    distinct: Vec<AtomicUsize>,
    /// The tokens whose rows [`Store::gather`] gathers.
    numbers: Mutex<Numbers>,
    /// The number of gathered rows.
    gathered: AtomicUsize,
}

/// The elements of one tensor in one chunk of a unit.
#[derive(Clone, Copy, Debug)]
pub struct AdamSlice {
    /// The tensor's index in the unit.
    pub tensor: usize,
    /// The index of the first element among all elements of the model, padding included.
    pub first: u64,
    /// The memory of these elements.
    pub spans: Spans,
}

impl Store {
    /// Allocates the host memory of a plan, zeroed. The pool's threads touch every page, so that no
    /// step pays for page faults. Buffers copied to or from the device have the memory kind it asks
    /// for.
    pub fn take(layout: &Layout, plan: &Plan, pool: &Pool, device: &dyn Device) -> Result<Store> {
        let arena = |bytes, kind| -> Result<Arena> {
            let arena = Arena::take(bytes, kind)?;
            arena.touch(pool)?;
            Ok(arena)
        };
        let wire_bytes = plan.host.wire_bytes();
        Ok(Store {
            layout: layout.clone(),
            map: plan.host.clone(),
            shape: plan.policy.numeric.shape,
            stores_gradients: !plan.policy.streams_gradients(),
            grad_dtype: plan.policy.numeric.grad_dtype,
            optimizer: plan.policy.mode.optimizer(),
            wire: arena(wire_bytes, device.wire_memory(wire_bytes))?,
            state: arena(plan.host.state_bytes(), MemoryKind::Plain)?,
            ones: filled(1.0, plan.policy.numeric.shape.n())?,
            derived: Mutex::new(Derived::new(plan.policy.numeric.shape)?),
            distinct: (0..plan.micros_max).map(|_| AtomicUsize::new(0)).collect(),
            numbers: Mutex::new(Numbers::of(layout.unit(layout.embedding()).tensors[0].shape[0])?),
            gathered: AtomicUsize::new(0),
        })
    }

    /// The offset of every tensor.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    fn wire(&self, range: ArenaRange) -> HostSpan {
        self.wire.whole().subspan(range.offset, range.bytes)
    }

    fn state(&self, range: ArenaRange) -> HostSpan {
        self.state.whole().subspan(range.offset, range.bytes)
    }

    /// The values of a span.
    fn values<T: Plain>(&self, span: HostSpan) -> &[T] {
        // SAFETY: the span lies in an arena of this store, and the access rule lets the caller read
        // it.
        unsafe { span.slice() }
    }

    /// The values of a span, to write.
    #[allow(clippy::mut_from_ref)]
    fn values_mut<T: Plain>(&self, span: HostSpan) -> &mut [T] {
        // SAFETY: the span lies in an arena of this store, and the access rule lets the caller
        // write it exclusively.
        unsafe { span.slice_mut() }
    }

    /// bf16: a unit's weights, the source of its upload.
    pub fn weights(&self, unit: UnitIndex) -> HostSpan {
        self.wire(self.map.unit(unit).weights)
    }

    /// The state of a unit, to be saved.
    pub fn unit_state(&self, unit: UnitIndex) -> UnitState<'_> {
        let span = |span| self.values(self.state_span(unit, span));
        UnitState {
            unit,
            layout: self.layout.unit(unit),
            weights: span(StateSpan::Weights),
            residual: span(StateSpan::Residual),
            state: std::array::from_fn(|number| span(StateSpan::Optimizer(number))),
            optimizer: self.optimizer,
        }
    }

    /// A span of a unit's state, to be restored.
    pub fn fill(&self, unit: UnitIndex, span: StateSpan) -> Fill<'_> {
        let bytes = self.values_mut(self.state_span(unit, span));
        Fill { unit, layout: self.layout.unit(unit), optimizer: self.optimizer, span, bytes }
    }

    fn state_span(&self, unit: UnitIndex, span: StateSpan) -> HostSpan {
        let memory = self.map.unit(unit);
        match span {
            StateSpan::Weights => self.wire(memory.weights),
            StateSpan::Residual => self.state(memory.residual),
            StateSpan::Optimizer(number) => self.state(memory.state[number]),
        }
    }

    /// The download buffer of a chunk of a gradient.
    pub fn gradient(&self, unit: UnitIndex, chunk: ChunkIndex, at: GradientBuffer) -> HostSpan {
        let elements = self.layout.chunk(unit, chunk);
        let size = self.grad_dtype.bytes();
        self.wire(match at {
            GradientBuffer::Store => self.map.unit(unit).gradient.elements(elements, size),
            GradientBuffer::Ring(slab) => self.map.ring(slab).elements(0..elements.len(), size),
        })
    }

    /// A slab of the gradient ring buffer.
    pub fn ring(&self, slab: u32) -> HostSpan {
        self.wire(self.map.ring(slab))
    }

    /// `[N, C]`: a layer's spilled boundary.
    pub fn boundary(&self, unit: UnitIndex, micro_slot: MicroSlotIndex) -> HostSpan {
        self.wire(self.map.boundary(unit, micro_slot))
    }

    /// f32: a layer's gradient accumulator between sweeps.
    pub fn accumulator(&self, unit: UnitIndex) -> HostSpan {
        self.wire(self.map.accumulator(unit))
    }

    /// f64 `[blocks]`: the sums of squares of a unit's gradient.
    pub fn norm(&self, unit: UnitIndex) -> HostSpan {
        self.wire(self.map.norm(unit))
    }

    /// The sum of squares of each tensor's gradient, in layout order. Blocks are added in order.
    pub fn square_sums(&self, unit: UnitIndex) -> impl Iterator<Item = f64> {
        let norm: &[f64] = self.values(self.norm(unit));
        let of_run = move |run: Run| norm[run.blocks].iter().sum();
        self.layout.unit(unit).runs().map(of_run)
    }

    /// f64 `[1]`: the download buffer of the loss sum.
    pub fn loss(&self) -> HostSpan {
        self.wire(self.map.loss())
    }

    /// Reads the loss sum.
    pub fn loss_sum(&self) -> f64 {
        self.values(self.loss())[0]
    }

    /// Sets the loss sum.
    pub fn set_loss_sum(&self, sum: f64) {
        self.values_mut(self.loss())[0] = sum;
    }

    /// f32 `[V]`: the download buffer of a row of logits.
    pub fn logits(&self) -> HostSpan {
        self.wire(self.map.logits())
    }

    /// Reads the row of logits.
    pub fn read_logits(&self) -> Result<Vec<f32>> {
        let logits = self.values(self.logits());
        let mut read = with_capacity(logits.len())?;
        read.extend_from_slice(logits);
        Ok(read)
    }

    /// f32 `[N]`: a micro-batch's downloaded log-probabilities, then their gradient for upload.
    pub fn logprobs(&self, micro: MicroIndex) -> HostSpan {
        self.wire(self.map.logprobs(micro))
    }

    /// The log-probabilities of a micro-batch of this shape, by sequence.
    pub fn read_logprobs(&self, micro: MicroIndex, shape: Shape) -> impl Iterator<Item = &[f32]> {
        let sequences = self.values(self.logprobs(micro)).chunks_exact(self.shape.t).take(shape.b);
        sequences.map(move |sequence: &[f32]| &sequence[..shape.t])
    }

    /// Writes the gradient of the log-probabilities of a micro-batch of this shape; zeros for
    /// padding.
    pub fn write_logprobs(&self, micro: MicroIndex, shape: Shape, values: &[f32]) {
        let all = self.values_mut(self.logprobs(micro));
        all.fill(0.0);
        for (to, from) in all.chunks_exact_mut(self.shape.t).zip(values.chunks_exact(shape.t)) {
            to[..shape.t].copy_from_slice(from);
        }
    }

    /// Read-only constants shared by all layers, uploaded once.
    pub fn constants(&self) -> HostSpan {
        self.wire(self.map.constants())
    }

    /// Writes the constants.
    pub fn write_constants(&self, values: &[f32]) {
        self.values_mut(self.constants())[..values.len()].copy_from_slice(values);
    }

    /// A micro-batch's staging buffer.
    pub fn batch(&self, micro: MicroIndex) -> HostSpan {
        self.wire(self.map.batch(micro).whole)
    }

    /// The number of distinct tokens of a staged micro-batch.
    pub fn distinct(&self, micro: MicroIndex) -> usize {
        // Relaxed: issuing a task to a lane orders it after the staging of its batch.
        self.distinct[micro.at()].load(Relaxed)
    }

    /// Pads a checked batch, and copies it and its derived arrays to its staging buffer.
    pub fn stage(&self, micro: MicroIndex, batch: &Batch) -> Result<()> {
        let padded = batch.padded(self.shape)?;
        let batch = &padded.as_ref().map_or(*batch, Padded::batch);
        let memory = self.map.batch(micro);
        let derived = &mut *self.derived.lock();
        derived.fill(batch);
        self.values_mut(self.wire(memory.weights)).copy_from_slice(batch.weights.unwrap_or(&self.ones));
        for (range, values) in [
            (memory.tokens, batch.tokens),
            (memory.targets, batch.targets),
            (memory.positions, &derived.positions),
            (memory.doc_start, &derived.doc_start),
            (memory.doc_end, &derived.doc_end),
            (memory.order, &derived.order),
            (memory.first, &derived.first),
            // A token's row in the whole table, until rows are gathered.
            (memory.gathered, batch.tokens),
        ] {
            self.values_mut(self.wire(range)).copy_from_slice(values);
        }
        self.distinct[micro.at()].store(derived.distinct, Relaxed);
        Ok(())
    }

    /// Gathers the rows of an untied embedding that the first `micros` staged batches use into the
    /// upload buffer, with the pool's threads. No lane uses those batches or the embedding.
    pub fn gather(&self, micros: usize, pool: &Pool) {
        let numbers = &mut *self.numbers.lock();
        numbers.clear();
        for micro in (0..micros).map(MicroIndex::from) {
            self.values(self.wire(self.map.batch(micro).tokens)).iter().for_each(|token| numbers.add(*token));
        }
        assert!(self.find_rows(micros, numbers), "every token of the batches has a number");
        self.gather_rows(numbers, pool);
    }

    /// Maps each token of the first `micros` staged batches to its gathered row. Returns false if a
    /// row is missing; then the rows must be gathered again. No lane uses those batches.
    pub fn find_rows(&self, micros: usize, numbers: &Numbers) -> bool {
        let found = (0..micros).map(MicroIndex::from).all(|micro| {
            let memory = self.map.batch(micro);
            numbers.find(self.values(self.wire(memory.tokens)), self.values_mut(self.wire(memory.gathered)))
        });
        if found {
            self.gathered.store(numbers.len(), Relaxed);
        }
        found
    }

    /// Copies the numbered rows of the embedding to the buffer that is uploaded instead of the
    /// whole embedding, with the pool's threads. No lane uses either.
    pub fn gather_rows(&self, numbers: &Numbers, pool: &Pool) {
        let (table, to) = (self.weights(self.layout.embedding()), self.wire(self.map.gathered()));
        numbers.gather(self.values(table), self.values_mut(to), self.row_bytes(), pool);
    }

    /// The capacity of the buffer of gathered rows; 0 if the embedding is tied.
    pub fn gathered_max(&self) -> usize {
        self.map.gathered().bytes / self.row_bytes()
    }

    /// The gathered rows, bf16.
    pub fn gathered(&self) -> HostSpan {
        self.wire(self.map.gathered()).subspan(0, self.gathered.load(Relaxed) * self.row_bytes())
    }

    /// Bytes of a row of the embedding.
    fn row_bytes(&self) -> usize {
        self.layout.unit(self.layout.embedding()).tensors[0].shape[1] * DType::Bf16.bytes()
    }

    /// The memory of AdamW for a chunk of a unit, tensor by tensor.
    pub fn adam_slices(
        &self,
        unit: UnitIndex,
        chunk: ChunkIndex,
        from: GradientBuffer,
    ) -> impl Iterator<Item = AdamSlice> {
        self.adam_slices_in(unit, self.layout.chunk(unit, chunk), self.gradient(unit, chunk, from))
    }

    /// Like [`Store::adam_slices`], for a whole unit whose gradient is
    /// [stored](Store::stores_gradients).
    pub fn adam_unit(&self, unit: UnitIndex) -> impl Iterator<Item = AdamSlice> {
        let elements = 0..self.layout.unit(unit).elements;
        let gradient = self.map.unit(unit).gradient.elements(elements.clone(), self.grad_dtype.bytes());
        self.adam_slices_in(unit, elements, self.wire(gradient))
    }

    fn adam_slices_in(
        &self,
        unit: UnitIndex,
        chunk_elements: Range<usize>,
        gradient: HostSpan,
    ) -> impl Iterator<Item = AdamSlice> {
        let units_before = &self.layout.units[..unit.at()];
        let elements_before: usize = units_before.iter().map(|unit| unit.elements).sum();
        let grad_size = self.grad_dtype.bytes();
        self.layout.unit(unit).tensors.iter().enumerate().filter_map(move |(number, tensor)| {
            let start = tensor.offset.max(chunk_elements.start);
            let end = (tensor.offset + tensor.elements()).min(chunk_elements.end);
            if start >= end {
                return None;
            }
            let elements = start..end;
            let [weights, residual] = self.halves(unit, elements.clone());
            let spans = Spans {
                master: Master::Split { weights, residual },
                gradient: gradient
                    .subspan((start - chunk_elements.start) * grad_size, elements.len() * grad_size),
                gradient_dtype: self.grad_dtype,
                optimizer: self.optimizer,
                state: self.optimizer_state(unit, elements),
            };
            Some(AdamSlice { tensor: number, first: (elements_before + start) as u64, spans })
        })
    }

    /// One optimizer step over a slice.
    pub fn update(&self, slice: &AdamSlice, step: &Step, pool: &Pool) {
        // SAFETY: the spans lie in the arenas of this store and are disjoint, and the access rule
        // lets the caller write them exclusively.
        unsafe { optim::update(pool, &slice.spans, step) }
    }

    /// Reads a tensor's f32 master.
    pub fn read_tensor(&self, unit: UnitIndex, tensor: &TensorLayout, out: &mut [f32]) {
        let [weights, residual] = self.masters(unit, tensor, 0..out.len());
        optim::read_master(self.values(weights), self.values(residual), out);
    }

    /// Writes a tensor's f32 master. Moments are unchanged.
    pub fn write_tensor(&self, unit: UnitIndex, tensor: &TensorLayout, values: &[f32]) {
        let [weights, residual] = self.masters(unit, tensor, 0..values.len());
        optim::write_master(self.values_mut(weights), self.values_mut(residual), values);
    }

    /// Fails if [no gradients are stored](crate::schedule::Policy::streams_gradients).
    pub fn stores_gradients(&self) -> Result<()> {
        if self.stores_gradients {
            return Ok(());
        }
        Err(Error::new(
            Status::Unsupported,
            format!(
                "this mode does not store gradients (they pass through a ring buffer); {} stores them, and so does \
                 {} with {} and {}",
                Name::Mode.is("exact"),
                Name::Mode.is("compact"),
                Name::GradPlace.is("host"),
                Name::AdamWhen.is("after norm")
            ),
        ))
    }

    /// Reads a tensor's gradient of the last step, before clipping. It is
    /// [stored](Store::stores_gradients).
    pub fn read_gradient(&self, unit: UnitIndex, tensor: &TensorLayout, out: &mut [f32]) {
        let range = self.map.unit(unit).gradient;
        let elements = tensor.offset..tensor.offset + tensor.elements();
        let gradient = self.wire(range.elements(elements, self.grad_dtype.bytes()));
        match self.grad_dtype {
            DType::F32 => out.copy_from_slice(self.values(gradient)),
            DType::Bf16 => {
                let stored: &[u16] = self.values(gradient);
                out.iter_mut().zip(stored).for_each(|(out, stored)| *out = master::widen(*stored));
            }
        }
    }

    /// The masters of some elements of a tensor, to write. `index` is the tensor's index in layout
    /// order.
    pub fn slice<'a>(
        &'a self,
        index: usize,
        (unit, tensor): (UnitIndex, &'a TensorLayout),
        elements: Range<usize>,
    ) -> TensorSlice<'a> {
        let [weights, residual] = self.masters(unit, tensor, elements.clone());
        let (weights, residual) = (self.values_mut(weights), self.values_mut(residual));
        TensorSlice { index, tensor, elements, weights, residual }
    }

    /// Weights and residuals of some elements of a tensor.
    fn masters(&self, unit: UnitIndex, tensor: &TensorLayout, elements: Range<usize>) -> [HostSpan; 2] {
        self.halves(unit, tensor.offset + elements.start..tensor.offset + elements.end)
    }

    /// Weights and residuals of some elements of a unit.
    fn halves(&self, unit: UnitIndex, elements: Range<usize>) -> [HostSpan; 2] {
        let memory = self.map.unit(unit);
        [
            self.wire(memory.weights.elements(elements.clone(), 2)),
            self.state(memory.residual.elements(elements, 2)),
        ]
    }

    /// The optimizer's arrays of some elements of a unit.
    fn optimizer_state(&self, unit: UnitIndex, elements: Range<usize>) -> [HostSpan; STATE_ARRAYS_MAX] {
        let mut state = self.map.unit(unit).state;
        for (range, array) in state.iter_mut().zip(self.optimizer.state()) {
            *range = range.elements(elements.clone(), array.dtype.bytes());
        }
        state.map(|range| self.state(range))
    }

    /// The tensor with this name.
    ///
    /// Errors: there is none (`NotFound`).
    pub fn named(&self, name: &str) -> Result<(UnitIndex, &TensorLayout)> {
        self.layout
            .find(name)
            .ok_or_else(|| Error::new(Status::NotFound, format!("the model has no tensor named `{name}`")))
    }

    /// The tensor with this name, checked to have `len` elements.
    ///
    /// Errors: there is none (`NotFound`); another length (`InvalidArgument`).
    pub fn find(&self, name: &str, len: usize) -> Result<(UnitIndex, &TensorLayout)> {
        let (unit, tensor) = self.named(name)?;
        if tensor.elements() != len {
            return Err(Error::argument(format!(
                "{} {len}; {name} has {} (shape {:?})",
                phrase("values.len() is", "count is", "values.len() is"),
                several(tensor.elements(), "element"),
                tensor.shape
            )));
        }
        Ok((unit, tensor))
    }
}
