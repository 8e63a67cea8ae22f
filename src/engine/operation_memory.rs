//! The memory of one operation: the resources that it declares, and no others.
//!
//! `check` proves lists free of hazards from what operations declare. What runs finds its memory here alone, so that what was
//! proved is what runs.
//!
//! This is the one file of the engine that looks at device memory: its functions are called inside the task of the operation whose
//! places they are given, or while the lanes are closed ([the engine](super)).
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

/// The places of an operation of a list of this extent.
pub struct OperationMemory<'a> {
    /// All memory.
    pub runner: &'a Runner,
    /// The operation.
    pub operation: Operation,
    /// The list's extent.
    pub extent: Extent,
    /// The first accesses that the operation declares: resources, and whether they are written.
    declared: [Option<(Resource, bool)>; DECLARED],
}

/// Accesses that are kept at hand: all of most operations. The others are looked up.
const DECLARED: usize = 10;

/// Device memory at work. The trainer keeps the device and the store until its lanes are closed.
impl Runner {
    pub(super) fn launch(&self, op: &Op) {
        // SAFETY: the operands are places of the running operation, which declares them; `check` has proved that no other
        // operation meets them. Batches were checked before they were staged. The workspace is the compute lane's.
        unsafe { self.kernels.run(op) }
    }

    pub(super) fn upload(&self, to: DeviceSpan, from: HostSpan) -> Result<()> {
        // SAFETY: both ends are declared by the running operation, and `check` has proved that no other meets them; or no lane is
        // open yet, as when constants are uploaded.
        unsafe { self.device.upload(to, from) }
    }

    pub(super) fn download(&self, to: HostSpan, from: DeviceSpan) -> Result<()> {
        // SAFETY: as for an upload: declared by the running operation, proved apart from all others.
        unsafe { self.device.download(to, from) }
    }

    pub(super) fn scrub(&self, lane: Lane, span: DeviceSpan) -> Result<()> {
        // SAFETY: the running operation is the last to use what the span holds, and whoever writes it next waits for that.
        unsafe { self.device.scrub(lane, span) }
    }
}

impl<'a> OperationMemory<'a> {
    /// The places of an operation of a list of this extent.
    pub fn new(runner: &'a Runner, operation: Operation, extent: Extent) -> OperationMemory<'a> {
        let (mut declared, mut count) = ([None; DECLARED], 0);
        operation.visit(&runner.plan.geometry, extent, &mut |access| {
            if let Some(place) = declared.get_mut(count) {
                *place = Some((access.resource, access.writes()));
            }
            count += 1;
        });
        OperationMemory { runner, operation, extent, declared }
    }
}

impl OperationMemory<'_> {
    /// # Panics
    /// If the operation does not declare that it uses the resource so.
    fn declared(&self, resource: Resource, writes: bool) {
        let allows = |(declared, written)| declared == resource && (written || !writes);
        let mut is_declared = self.declared.iter().flatten().copied().any(allows);
        if !is_declared {
            self.operation.visit(&self.runner.plan.geometry, self.extent, &mut |access| {
                is_declared |= allows((access.resource, access.writes()));
            });
        }
        assert!(is_declared, "{} uses {resource}, which it does not declare", self.operation);
    }

    /// A resource on the device that the operation reads.
    pub fn read(&self, resource: Resource) -> DeviceSpan {
        self.device(resource, false)
    }

    /// A resource on the device that the operation writes.
    pub fn write(&self, resource: Resource) -> DeviceSpan {
        self.device(resource, true)
    }

    fn device(&self, resource: Resource, writes: bool) -> DeviceSpan {
        self.declared(resource, writes);
        let (_, place) = self.runner.plan.device.named(&resource).expect("a resource on the device");
        self.runner.at(place)
    }

    /// A resource on the host that crosses the link.
    fn host(&self, resource: Resource, writes: bool) -> HostSpan {
        self.declared(resource, writes);
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
            _ => panic!("{resource} does not cross the link"),
        }
    }

    /// The two ends of the copy that the operation is, of the length of what is copied: device memory first.
    pub fn copy(&self) -> (DeviceSpan, HostSpan) {
        let runner = self.runner;
        let copy = self.operation.copy(&runner.plan.geometry, self.extent);
        let (device, host) = match copy.from.is_on_host() {
            true => (self.write(copy.to), self.host(copy.from, false)),
            false => (self.read(copy.from), self.host(copy.to, true)),
        };
        let grad_dtype = runner.plan.policy.numeric.grad_dtype;
        let bytes = content_bytes(runner.layout(), &runner.plan.passes, grad_dtype, &copy.content);
        // Of an embedding's weights only the gathered rows go up.
        let bytes = if copy.from == Resource::HostRows { host.bytes() } else { bytes };
        (device.subspan(0, bytes), host.subspan(0, bytes))
    }

    /// The memory of an operand of the operation's pass.
    pub fn operand(&self, location: &Location, step_state: &StepState) -> DeviceSpan {
        let map = &self.runner.plan.device;
        let memory = match (
            self.operation.bind(location.base, &self.runner.plan.geometry, self.extent),
            location.base,
        ) {
            (Some(resource @ Resource::Batch { micro }), Base::External(external)) => {
                self.declared(resource, location.writes);
                self.runner.at(map.batch(micro).array(external).expect("an array of the batch"))
            }
            (Some(resource), _) => self.device(resource, location.writes),
            (None, _) => self.runner.at(map.constants()),
        };
        // The logits of one row are asked for.
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
