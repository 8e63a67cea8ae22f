//! The memory of one operation: the resources that it declares, and no others.
//!
//! `check` proves from these declarations that a list has no hazards. Operations get memory from
//! here only, so what was proved is what runs.
//!
//! Except for `calibrate`, this is the engine's only file that accesses device memory. Its
//! functions are called inside the task of the operation that declares the memory, or while the
//! lanes are closed ([the engine](super)).
#![allow(unsafe_code)]

use crate::base::Result;
use crate::device::{DeviceSpan, Lane};
use crate::engine::runner::Runner;
use crate::engine::step_state::StepState;
use crate::host::HostSpan;
use crate::model::{Base, External, Location};
use crate::ops::Op;
use crate::plan::content_bytes;
use crate::schedule::{Extent, GradientBuffer, Operation, Resource};

/// The memory of an operation.
pub struct OperationMemory<'a> {
    /// The owner of all memory.
    pub runner: &'a Runner,
    /// The operation.
    pub operation: Operation,
    /// The extent of the operation's list.
    pub extent: Extent,
    /// The first accesses that the operation declares: each resource, and true if it is written.
    declared: [Option<(Resource, bool)>; DECLARED],
}

/// Cached declarations: enough for most operations. Further ones are looked up.
const DECLARED: usize = 10;

/// Accesses to device memory. The trainer keeps the device and the store until its lanes are
/// closed.
impl Runner {
    pub(super) fn launch(&self, op: &Op) {
        // SAFETY: the running operation declares the memory of the operands, and `check` has proved
        // that no conflicting operation runs meanwhile. Batches were checked before they were
        // staged. Only the compute lane uses the workspace.
        unsafe { self.kernels.run(op) }
    }

    pub(super) fn upload(&self, to: DeviceSpan, from: HostSpan) -> Result<()> {
        // SAFETY: the running operation declares both spans, and `check` has proved that no
        // conflicting operation runs meanwhile; or no lane is open yet, as when constants are
        // uploaded.
        unsafe { self.device.upload(to, from) }
    }

    pub(super) fn download(&self, to: HostSpan, from: DeviceSpan) -> Result<()> {
        // SAFETY: as for an upload: the running operation declares both spans, and `check` has
        // proved that no conflicting operation runs meanwhile.
        unsafe { self.device.download(to, from) }
    }

    pub(super) fn scrub(&self, lane: Lane, span: DeviceSpan) -> Result<()> {
        // SAFETY: the running operation is the last to use the span's contents, and the operation
        // that writes it next waits for this one.
        unsafe { self.device.scrub(lane, span) }
    }
}

impl<'a> OperationMemory<'a> {
    /// The memory of an operation in a list of this extent.
    pub fn new(runner: &'a Runner, operation: Operation, extent: Extent) -> OperationMemory<'a> {
        let (mut declared, mut count) = ([None; DECLARED], 0);
        operation.visit(&runner.plan.geometry, extent, &mut |access| {
            if let Some(entry) = declared.get_mut(count) {
                *entry = Some((access.resource, access.writes()));
            }
            count += 1;
        });
        OperationMemory { runner, operation, extent, declared }
    }
}

impl OperationMemory<'_> {
    /// # Panics
    /// If the operation does not declare this access.
    fn assert_declared(&self, resource: Resource, writes: bool) {
        let allows = |(declared, written)| declared == resource && (written || !writes);
        let mut is_declared = self.declared.iter().flatten().copied().any(allows);
        if !is_declared {
            self.operation.visit(&self.runner.plan.geometry, self.extent, &mut |access| {
                is_declared |= allows((access.resource, access.writes()));
            });
        }
        assert!(is_declared, "{} uses {resource}, which it does not declare", self.operation);
    }

    /// The memory of a device resource that the operation reads.
    pub fn read(&self, resource: Resource) -> DeviceSpan {
        self.device(resource, false)
    }

    /// The memory of a device resource that the operation writes.
    pub fn write(&self, resource: Resource) -> DeviceSpan {
        self.device(resource, true)
    }

    fn device(&self, resource: Resource, writes: bool) -> DeviceSpan {
        self.assert_declared(resource, writes);
        let (_, range) = self.runner.plan.device.named(&resource).expect("a resource on the device");
        self.runner.at(range)
    }

    /// The memory of a host resource that is copied to or from the device.
    fn host(&self, resource: Resource, writes: bool) -> HostSpan {
        self.assert_declared(resource, writes);
        let store = &self.runner.store;
        match resource {
            Resource::HostBatch { micro } => store.batch(micro),
            Resource::Master { unit } => store.weights(unit),
            Resource::HostRows => store.gathered(),
            Resource::HostGradient { unit, chunk } => store.gradient(unit, chunk, GradientBuffer::Store),
            Resource::Ring(slab) => store.ring(slab),
            Resource::HostBoundary { unit, micro_slot } => store.boundary(unit, micro_slot),
            Resource::HostAccumulator { unit } => store.accumulator(unit),
            Resource::HostNorm { unit } => store.norm(unit),
            Resource::HostLoss => store.loss(),
            Resource::HostLogits => store.logits(),
            Resource::HostLogprobs { micro } => store.logprobs(micro),
            _ => panic!("{resource} is never copied to or from the device"),
        }
    }

    /// Device and host span of a copy operation, both as long as the copied content.
    pub fn copy(&self) -> (DeviceSpan, HostSpan) {
        let runner = self.runner;
        let copy = self.operation.copy(&runner.plan.geometry, self.extent);
        let (device, host) = match copy.from.is_on_host() {
            true => (self.write(copy.to), self.host(copy.from, false)),
            false => (self.read(copy.from), self.host(copy.to, true)),
        };
        let grad_dtype = runner.plan.policy.numeric.grad_dtype;
        let bytes = content_bytes(runner.layout(), &runner.plan.passes, grad_dtype, &copy.content);
        // Of an untied embedding only the gathered rows are uploaded.
        let bytes = if copy.from == Resource::HostRows { host.bytes() } else { bytes };
        (device.subspan(0, bytes), host.subspan(0, bytes))
    }

    /// The memory of an operand of the operation's pass.
    ///
    /// # Panics
    /// If the operation does not declare it.
    pub fn operand(&self, location: &Location, step_state: &StepState) -> DeviceSpan {
        let map = &self.runner.plan.device;
        let memory = match (
            self.operation.bind(location.base, &self.runner.plan.geometry, self.extent),
            location.base,
        ) {
            (Some(resource @ Resource::Batch { micro }), Base::External(external)) => {
                self.assert_declared(resource, location.writes);
                self.runner.at(map.batch(micro).array(external).expect("an array of the batch"))
            }
            (Some(resource), _) => self.device(resource, location.writes),
            (None, _) => self.runner.at(map.constants()),
        };
        // `HeadLogits` computes the logits of one row.
        let row = if self.operation == Operation::HeadLogits
            && location.base == Base::External(External::ResidualStream)
        {
            step_state.inputs().row as usize
        } else {
            0
        };
        memory.subspan(location.offset + row * location.bytes, location.bytes)
    }
}
