//! The store: the host-resident model, and the one file of the engine that looks at host memory.
//!
//! What it lends stays as long as the store, which owns the arenas. Who may look at what when is decided above: a function is called
//! by an operation that declares the resource, or by the calling thread once `sync` and `check` have let it
//! ([the engine](super)).
#![allow(unsafe_code)]

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use parking_lot::Mutex;

use crate::base::{ChunkIndex, DType, Error, MicroIndex, MicroSlotIndex, Result, Status, UnitIndex, master};
use crate::device::Device;
use crate::engine::Batch;
use crate::engine::derived::Derived;
use crate::engine::gather::Numbers;
use crate::engine::save::{Fill, StateSpan, UnitState};
use crate::engine::slices::TensorSlice;
use crate::host::{Arena, HostSpan, MemoryKind, Plain, Pool};
use crate::model::{Layout, Run, TensorLayout};
use crate::optim::{self, Master, Optimizer, STATE_ARRAYS_MAX, Spans, Step};
use crate::plan::{ArenaRange, HostMap, Plan};
use crate::schedule::GradientBuffer;

/// Weights, residuals, gradients and moments of every unit, and the staging beside them.
pub struct Store {
    layout: Layout,
    map: HostMap,
    stores_gradients: bool,
    grad_dtype: DType,
    optimizer: Optimizer,
    wire: Arena,
    state: Arena,
    /// `[N]`: the weights of a batch that has none.
    ones: Vec<f32>,
    /// What is worked out of a batch while it is staged.
    derived: Mutex<Derived>,
    /// By micro-batch: distinct tokens of what is staged.
    distinct: Vec<AtomicUsize>,
    /// The tokens of what [`Store::gather`] gathers.
    numbers: Mutex<Numbers>,
    /// Rows that are gathered.
    gathered: AtomicUsize,
}

/// The elements of one tensor that lie in one part.
#[derive(Clone, Copy, Debug)]
pub struct AdamSlice {
    /// The tensor, by its number in the unit.
    pub tensor: usize,
    /// The number of the first element among all elements of the model, padding counted.
    pub first: u64,
    /// The tensor's own spans.
    pub spans: Spans,
}

impl Store {
    /// Takes the memory a plan asks for, and gives it its RAM by the pool's threads, so that no step pays for
    /// that; everything is zero. What crosses the link is of the kind that the device copies best.
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
            stores_gradients: !plan.policy.streams_gradients(),
            grad_dtype: plan.policy.numeric.grad_dtype,
            optimizer: plan.policy.mode.optimizer(),
            wire: arena(wire_bytes, device.wire_memory(wire_bytes))?,
            state: arena(plan.host.state_bytes(), MemoryKind::Plain)?,
            ones: vec![1.0; plan.policy.numeric.shape.n()],
            derived: Mutex::new(Derived::new(plan.policy.numeric.shape)),
            distinct: (0..plan.micros_max).map(|_| AtomicUsize::new(0)).collect(),
            numbers: Mutex::new(Numbers::of(layout.unit(layout.embedding()).tensors[0].shape[0])),
            gathered: AtomicUsize::new(0),
        })
    }

    /// Where every tensor is.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    fn wire(&self, place: ArenaRange) -> HostSpan {
        self.wire.whole().subspan(place.offset, place.bytes)
    }

    fn state(&self, place: ArenaRange) -> HostSpan {
        self.state.whole().subspan(place.offset, place.bytes)
    }

    /// Numbers to read.
    fn look<T: Plain>(&self, span: HostSpan) -> &[T] {
        // SAFETY: the span is of an arena of the store's; whoever calls may read it, as said at the top.
        unsafe { span.slice() }
    }

    /// Numbers to write.
    #[allow(clippy::mut_from_ref)]
    fn lend<T: Plain>(&self, span: HostSpan) -> &mut [T] {
        // SAFETY: the span is of an arena of the store's; whoever calls may write it, alone, as said at the top.
        unsafe { span.slice_mut() }
    }

    /// A unit's bf16 weights: what an upload reads.
    pub fn weights(&self, unit: UnitIndex) -> HostSpan {
        self.wire(self.map.unit(unit).weights)
    }

    /// All that a resumed run needs of a unit, to read.
    pub fn unit_state(&self, unit: UnitIndex) -> UnitState<'_> {
        let span = |span| self.look(self.state_span(unit, span));
        UnitState {
            unit,
            layout: self.layout.unit(unit),
            weights: span(StateSpan::Weights),
            residual: span(StateSpan::Residual),
            state: std::array::from_fn(|number| span(StateSpan::Optimizer(number))),
            optimizer: self.optimizer,
        }
    }

    /// A span of a unit's state, to write.
    pub fn fill(&self, unit: UnitIndex, span: StateSpan) -> Fill<'_> {
        let bytes = self.lend(self.state_span(unit, span));
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

    /// Where a part of a gradient lands.
    pub fn gradient(&self, unit: UnitIndex, chunk: ChunkIndex, at: GradientBuffer) -> HostSpan {
        let elements = self.layout.chunk(unit, chunk);
        let size = self.grad_dtype.bytes();
        self.wire(match at {
            GradientBuffer::Store => self.map.unit(unit).gradient.elements(elements, size),
            GradientBuffer::Ring(slab) => self.map.ring(slab).elements(0..elements.len(), size),
        })
    }

    /// A slab of the ring.
    pub fn ring(&self, slab: u32) -> HostSpan {
        self.wire(self.map.ring(slab))
    }

    /// `[N, C]`: a layer's boundary while it is spilled.
    pub fn boundary(&self, unit: UnitIndex, micro_slot: MicroSlotIndex) -> HostSpan {
        self.wire(self.map.boundary(unit, micro_slot))
    }

    /// f32: a layer's running gradient between sweeps.
    pub fn accumulator(&self, unit: UnitIndex) -> HostSpan {
        self.wire(self.map.accumulator(unit))
    }

    /// f64 `[blocks]`: where a unit's sums of squares land.
    pub fn norm(&self, unit: UnitIndex) -> HostSpan {
        self.wire(self.map.norm(unit))
    }

    /// The sums of squares of a unit's tensors, in order: the blocks of each are added in order.
    pub fn square_sums(&self, unit: UnitIndex) -> impl Iterator<Item = f64> {
        let norm: &[f64] = self.look(self.norm(unit));
        let of_run = move |run: Run| norm[run.blocks].iter().sum();
        self.layout.unit(unit).runs().map(of_run)
    }

    /// f64 `[1]`: where the loss sum lands.
    pub fn loss(&self) -> HostSpan {
        self.wire(self.map.loss())
    }

    /// The loss sum.
    pub fn loss_sum(&self) -> f64 {
        self.look(self.loss())[0]
    }

    /// Sets the loss sum.
    pub fn set_loss_sum(&self, sum: f64) {
        self.lend(self.loss())[0] = sum;
    }

    /// f32 `[V]`: where a row of logits lands.
    pub fn logits(&self) -> HostSpan {
        self.wire(self.map.logits())
    }

    /// The row of logits.
    pub fn read_logits(&self) -> Vec<f32> {
        self.look(self.logits()).to_vec()
    }

    /// f32 `[N]`: where a micro-batch's log-probabilities land, and their gradient leaves from.
    pub fn logprobs(&self, micro: MicroIndex) -> HostSpan {
        self.wire(self.map.logprobs(micro))
    }

    /// Reads a micro-batch's log-probabilities.
    pub fn read_logprobs(&self, micro: MicroIndex, out: &mut [f32]) {
        out.copy_from_slice(self.look(self.logprobs(micro)));
    }

    /// Writes their gradient.
    pub fn write_logprobs(&self, micro: MicroIndex, values: &[f32]) {
        self.lend(self.logprobs(micro)).copy_from_slice(values);
    }

    /// What the model's layers read and nobody writes: what is uploaded once.
    pub fn constants(&self) -> HostSpan {
        self.wire(self.map.constants())
    }

    /// Writes them.
    pub fn write_constants(&self, values: &[f32]) {
        self.lend(self.constants())[..values.len()].copy_from_slice(values);
    }

    /// A micro-batch's staging.
    pub fn batch(&self, micro: MicroIndex) -> HostSpan {
        self.wire(self.map.batch(micro).whole)
    }

    /// Distinct tokens of a micro-batch that is staged.
    pub fn distinct(&self, micro: MicroIndex) -> usize {
        // Handing a task to a lane orders it after the staging of its batch.
        self.distinct[micro.at()].load(Relaxed)
    }

    /// Copies a checked batch into its staging, with what kernels want to know beside.
    pub fn stage(&self, micro: MicroIndex, batch: &Batch) {
        let memory = self.map.batch(micro);
        let derived = &mut *self.derived.lock();
        derived.fill(batch);
        self.lend(self.wire(memory.weights)).copy_from_slice(batch.weights.unwrap_or(&self.ones));
        for (place, values) in [
            (memory.tokens, batch.tokens),
            (memory.targets, batch.targets),
            (memory.positions, &derived.positions),
            (memory.doc_start, &derived.doc_start),
            (memory.doc_end, &derived.doc_end),
            (memory.order, &derived.order),
            (memory.first, &derived.first),
            // All rows are up, unless some are gathered before.
            (memory.gathered, batch.tokens),
        ] {
            self.lend(self.wire(place)).copy_from_slice(values);
        }
        self.distinct[micro.at()].store(derived.distinct, Relaxed);
    }

    /// Gathers the rows of an untied embedding that the tokens of the first `micros` staged batches name, by the pool's
    /// threads, into what goes up in their stead. Neither those batches nor the embedding are in use by a lane.
    pub fn gather(&self, micros: usize, pool: &Pool) {
        let numbers = &mut *self.numbers.lock();
        numbers.clear();
        for micro in (0..micros).map(MicroIndex::from) {
            self.look(self.wire(self.map.batch(micro).tokens)).iter().for_each(|token| numbers.add(*token));
        }
        assert!(self.find_rows(micros, numbers), "every token of the batches has a number");
        self.gather_rows(numbers, pool);
    }

    /// Looks among gathered rows for those that the tokens of the first `micros` staged batches name: every token gets the
    /// number of its row. False if a row is missing; then all must be gathered anew. No lane uses those batches.
    pub fn find_rows(&self, micros: usize, numbers: &Numbers) -> bool {
        let found = (0..micros).map(MicroIndex::from).all(|micro| {
            let memory = self.map.batch(micro);
            numbers.find(self.look(self.wire(memory.tokens)), self.lend(self.wire(memory.gathered)))
        });
        if found {
            self.gathered.store(numbers.len(), Relaxed);
        }
        found
    }

    /// Copies the numbered rows of the embedding into the buffer uploaded instead of the whole embedding, using the thread pool. No lane uses
    /// either.
    pub fn gather_rows(&self, numbers: &Numbers, pool: &Pool) {
        let (table, to) = (self.weights(self.layout.embedding()), self.wire(self.map.gathered()));
        numbers.gather(self.look(table), self.lend(to), self.row_bytes(), pool);
    }

    /// How many rows of the embedding there is memory to gather for; none where it is tied.
    pub fn gathered_max(&self) -> usize {
        self.map.gathered().bytes / self.row_bytes()
    }

    /// bf16: the gathered rows.
    pub fn gathered(&self) -> HostSpan {
        self.wire(self.map.gathered()).subspan(0, self.gathered.load(Relaxed) * self.row_bytes())
    }

    /// Bytes of a row of the embedding.
    fn row_bytes(&self) -> usize {
        self.layout.unit(self.layout.embedding()).tensors[0].shape[1] * DType::Bf16.bytes()
    }

    /// What AdamW reads and writes of one part of a unit, tensor by tensor.
    pub fn adam_slices(
        &self,
        unit: UnitIndex,
        chunk: ChunkIndex,
        from: GradientBuffer,
    ) -> impl Iterator<Item = AdamSlice> {
        self.adam_slices_in(unit, self.layout.chunk(unit, chunk), self.gradient(unit, chunk, from))
    }

    /// As [`Store::adam_pieces`], of a whole unit whose gradient is [stored](Store::stores_gradients).
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

    /// One step of the optimizer over a piece. Nothing else is at work on its unit.
    pub fn update(&self, slice: &AdamSlice, step: &Step, pool: &Pool) {
        // SAFETY: the spans are of the store's arenas, and apart; whoever calls may write them, as said at the top.
        unsafe { optim::update(pool, &slice.spans, step) }
    }

    /// Reads a tensor's f32 master. No lane may be at work on its unit.
    pub fn read_tensor(&self, unit: UnitIndex, tensor: &TensorLayout, out: &mut [f32]) {
        let [weights, residual] = self.masters(unit, tensor, 0..out.len());
        optim::read_master(self.look(weights), self.look(residual), out);
    }

    /// Writes a tensor's f32 master; moments stay. No lane may be at work on its unit.
    pub fn write_tensor(&self, unit: UnitIndex, tensor: &TensorLayout, values: &[f32]) {
        let [weights, residual] = self.masters(unit, tensor, 0..values.len());
        optim::write_master(self.lend(weights), self.lend(residual), values);
    }

    /// Refuses to read a gradient where [none are stored](crate::schedule::Policy::streams_gradients).
    pub fn stores_gradients(&self) -> Result<()> {
        if self.stores_gradients {
            return Ok(());
        }
        Err(Error::new(
            Status::Unsupported,
            "gradients pass through a ring and none is kept to read; mode exact stores them, and mode compact does \
             where they wait for the norm on the host",
        ))
    }

    /// Reads the gradient a tensor had in the last step, before clipping. It is [stored](Store::stores_gradients), and
    /// no lane may be at work on it.
    pub fn read_gradient(&self, unit: UnitIndex, tensor: &TensorLayout, out: &mut [f32]) {
        let place = self.map.unit(unit).gradient;
        let elements = tensor.offset..tensor.offset + tensor.elements();
        let gradient = self.wire(place.elements(elements, self.grad_dtype.bytes()));
        match self.grad_dtype {
            DType::F32 => out.copy_from_slice(self.look(gradient)),
            DType::Bf16 => {
                let stored: &[u16] = self.look(gradient);
                out.iter_mut().zip(stored).for_each(|(out, stored)| *out = master::widen(*stored));
            }
        }
    }

    /// The masters of some elements of a tensor, to write. `index` is the tensor's place in the layout's order. Nothing else is at
    /// work on these elements.
    pub fn slice<'a>(
        &'a self,
        index: usize,
        (unit, tensor): (UnitIndex, &'a TensorLayout),
        elements: Range<usize>,
    ) -> TensorSlice<'a> {
        let [weights, residual] = self.masters(unit, tensor, elements.clone());
        TensorSlice { index, tensor, elements, weights: self.lend(weights), residual: self.lend(residual) }
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
        for (place, array) in state.iter_mut().zip(self.optimizer.state()) {
            *place = place.elements(elements.clone(), array.dtype.bytes());
        }
        state.map(|place| self.state(place))
    }

    /// The tensor of this name.
    pub fn named(&self, name: &str) -> Result<(UnitIndex, &TensorLayout)> {
        self.layout
            .find(name)
            .ok_or_else(|| Error::new(Status::NotFound, format!("the model has no tensor named `{name}`")))
    }

    /// The tensor of this name, if it has `len` elements.
    pub fn find(&self, name: &str, len: usize) -> Result<(UnitIndex, &TensorLayout)> {
        let (unit, tensor) = self.named(name)?;
        if tensor.elements() != len {
            return Err(Error::argument(format!(
                "{name} has {} elements (shape {:?}); {len} were given",
                tensor.elements(),
                tensor.shape
            )));
        }
        Ok((unit, tensor))
    }
}
