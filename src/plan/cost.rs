//! The time model: the FLOPs and bytes of an operation, counted from the model's sizes, divided by
//! the rates of a machine.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::base::DType;
use crate::device::Lane;
use crate::model::{Layout, Passes};
use crate::ops::{Flops, Op};
use crate::plan::BatchRanges;
use crate::plan::machine::by_lane;
use crate::schedule::{
    Content, Extent, Geometry, Mode, Operation, Policy, Resource, RowSet, Share, Simulator,
};

/// The rates of a machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Matmul throughput, FLOP/s, by [class](MATRIX_CLASSES) of shape.
    pub matrix_flop_per_s: [f64; MATRIX_CLASSES.len() + 1],
    /// Attention throughput, forward and backward, FLOP/s.
    pub attention_flop_per_s: [f64; 2],
    /// Device memory bandwidth of element-wise kernels, bytes/s.
    pub device_bytes_per_s: f64,
    /// Link bandwidth, host to device, bytes/s.
    pub up_bytes_per_s: f64,
    /// Link bandwidth, device to host, bytes/s.
    pub down_bytes_per_s: f64,
    /// RAM bandwidth of AdamW, bytes/s: in modes exact, streamed and compact.
    pub host_bytes_per_s: [f64; 3],
    /// RAM bandwidth shared by all lanes, bytes/s.
    pub ram_bytes_per_s: f64,
    /// Write bandwidth of checkpoints, bytes/s.
    pub disk_bytes_per_s: f64,
    /// Time from the end of a kernel to the start of the next, seconds.
    pub launch_s: f64,
    /// Fixed time of a task on each lane, seconds.
    #[serde(with = "by_lane")]
    pub latency_s: [f64; Lane::COUNT],
    /// Time from the end of a task to the start of a task on another lane that waited for it,
    /// seconds.
    pub handoff_s: f64,
    /// Resources other than RAM that lanes share and that slow them down.
    pub common: Vec<Common>,
}

/// A resource that several lanes use, such as cores or both directions of a link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Common {
    /// Its name.
    pub name: String,
    /// The fraction of it that each lane uses while it runs alone; lanes that together use more
    /// than 1 slow down in proportion.
    #[serde(with = "by_lane")]
    pub used: Share,
}

/// Upper limits of the matmul classes, by the smallest of the sizes N, K and M: up to 128, up to
/// 512, and above.
pub const MATRIX_CLASSES: [usize; 2] = [128, 512];

/// The work of an operation.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// Kernels.
    pub launches: f64,
    /// FLOPs of matmuls, by [class](MATRIX_CLASSES) of shape.
    pub matrix_flop: [f64; MATRIX_CLASSES.len() + 1],
    /// FLOPs of attention, forward and backward.
    pub attention_flop: [f64; 2],
    /// Device memory read and written by kernels other than matmuls, and the weights read by
    /// matmuls: that traffic does not grow with the rows, unlike the rest of a matmul.
    pub device_bytes: f64,
    /// Bytes copied to the device.
    pub up_bytes: f64,
    /// Bytes copied to the host.
    pub down_bytes: f64,
    /// RAM read and written by AdamW, by mode.
    pub host_bytes: [f64; 3],
    /// Bytes saved.
    pub disk_bytes: f64,
}

impl Machine {
    /// The time of some work on a lane of this machine, ns.
    pub fn ns(&self, lane: Lane, work: &Work) -> u64 {
        let at =
            |flop: &[f64], rates: &[f64]| flop.iter().zip(rates).map(|(flop, rate)| flop / rate).sum::<f64>();
        let seconds = self.latency_s[lane.at()]
            + work.launches * self.launch_s
            + at(&work.matrix_flop, &self.matrix_flop_per_s)
            + at(&work.attention_flop, &self.attention_flop_per_s)
            + work.device_bytes / self.device_bytes_per_s
            + work.up_bytes / self.up_bytes_per_s
            + work.down_bytes / self.down_bytes_per_s
            + at(&work.host_bytes, &self.host_bytes_per_s)
            + work.disk_bytes / self.disk_bytes_per_s;
        (seconds * 1e9).round() as u64
    }

    /// A simulator of the machine's lanes in steps of a mode.
    pub fn simulator(&self, mode: Mode) -> Simulator {
        let common = self.common.iter().map(|common| common.used);
        let shares = common.chain([self.ram_used(mode)]).collect();
        Simulator::sharing(shares, (self.handoff_s * 1e9).round() as u64)
    }

    /// The fraction of RAM bandwidth that each lane uses while it runs alone. Copies and saves
    /// touch a byte once; AdamW's bytes count reads and writes. A device whose memory is this
    /// RAM uses more than that, but is limited by cores first.
    fn ram_used(&self, mode: Mode) -> Share {
        let mut used = [0.0; Lane::COUNT];
        for (lane, bytes_per_s) in [
            (Lane::H2d, self.up_bytes_per_s),
            (Lane::D2h, self.down_bytes_per_s),
            (Lane::Host, self.host_bytes_per_s[mode as usize]),
            (Lane::Disk, self.disk_bytes_per_s),
        ] {
            // Capped at 1, so that a lane that runs alone is not slowed down.
            used[lane.at()] = (bytes_per_s / self.ram_bytes_per_s).min(1.0);
        }
        used
    }
}

impl Work {
    /// The work of each pass, by pass number.
    pub(in crate::plan) fn of_all(passes: &Passes) -> Vec<Work> {
        let activation_dtype = passes.sizes().activation_dtype;
        passes.all().iter().map(|pass| Work::of(&pass.ops, activation_dtype)).collect()
    }

    /// The work of ops with activations of this dtype.
    fn of<P>(ops: &[Op<P>], activation_dtype: DType) -> Work {
        let mut work = Work::default();
        for op in ops {
            let contract = op.contract();
            work.launches += 1.0;
            work.device_bytes += contract.traffic(activation_dtype) as f64;
            match contract.flops() {
                Flops::None => {}
                Flops::Matmul(sizes) => {
                    let smallest = sizes.into_iter().min().expect("there are three sizes");
                    let class = MATRIX_CLASSES.iter().filter(|end| smallest > **end).count();
                    work.matrix_flop[class] +=
                        2.0 * sizes.into_iter().map(|size| size as f64).product::<f64>();
                }
                Flops::AttentionForward(flop) => work.attention_flop[0] += flop,
                Flops::AttentionBackward(flop) => work.attention_flop[1] += flop,
            }
        }
        work
    }

    /// Kernels that read and write this many bytes of device memory.
    fn kernels(launches: usize, device_bytes: usize) -> Work {
        Work { launches: launches as f64, device_bytes: device_bytes as f64, ..Work::default() }
    }

    /// FLOPs of all matmuls.
    pub fn matmuls(&self) -> f64 {
        self.matrix_flop.iter().sum()
    }
}

/// The cost of every operation of a model under a policy: from the ops of its passes and the bytes
/// of its copies.
#[derive(Clone, Debug)]
pub struct Cost<'a> {
    layout: &'a Layout,
    passes: &'a Passes,
    policy: &'a Policy,
    geometry: Geometry,
    extent: Extent,
    /// The work of each pass, by pass number.
    works: Cow<'a, [Work]>,
}

impl<'a> Cost<'a> {
    /// The cost of steps of `micros` micro-batches.
    pub fn new(layout: &'a Layout, passes: &'a Passes, policy: &'a Policy, micros: usize) -> Self {
        Cost::of(layout, passes, Cow::Owned(Work::of_all(passes)), policy, micros)
    }

    /// Like [`Cost::new`], with the [work of all passes](Work::of_all).
    pub(in crate::plan) fn of(
        layout: &'a Layout,
        passes: &'a Passes,
        works: Cow<'a, [Work]>,
        policy: &'a Policy,
        micros: usize,
    ) -> Self {
        let extent = Extent::new(&policy.placement, micros);
        Cost { layout, passes, policy, geometry: Geometry::of(layout), extent, works }
    }

    /// The time of an operation on a machine, ns.
    pub fn ns(&self, machine: &Machine, operation: &Operation) -> u64 {
        machine.ns(operation.lane(), &self.work(operation))
    }

    /// Bytes that an operation copies over the link; `None` if it is not a copy.
    pub fn wire_bytes(&self, operation: &Operation) -> Option<u64> {
        let work = self.work(operation);
        matches!(operation.lane(), Lane::H2d | Lane::D2h).then_some((work.up_bytes + work.down_bytes) as u64)
    }

    /// The work of an operation.
    pub fn work(&self, operation: &Operation) -> Work {
        if let Some(pass) = operation.pass() {
            return self.works[self.passes.number(pass)];
        }
        let (grad_dtype, optimizer) = (self.policy.numeric.grad_dtype, self.policy.mode.optimizer());
        let (update_bytes, element_bytes) =
            (optimizer.traffic_bytes(grad_dtype), optimizer.parameter_bytes());
        let elements = |unit| self.layout.unit(unit).elements;
        let chunk = |unit, chunk| self.layout.chunk(unit, chunk).len();
        match *operation {
            _ if operation.lane() == Lane::H2d => {
                Work { up_bytes: self.copied(operation) as f64, ..Work::default() }
            }
            _ if operation.lane() == Lane::D2h => {
                Work { down_bytes: self.copied(operation) as f64, ..Work::default() }
            }
            Operation::Norm { unit, .. } => {
                Work::kernels(self.layout.unit(unit).tensors.len(), 4 * elements(unit))
            }
            Operation::Round { unit, chunk: number, .. } => {
                let launches = self.layout.chunk_runs(unit, number).count();
                Work::kernels(launches, (4 + grad_dtype.bytes()) * chunk(unit, number))
            }
            Operation::Save { unit } => {
                Work { disk_bytes: (element_bytes * elements(unit)) as f64, ..Work::default() }
            }
            Operation::Adam { unit, chunk: number, .. } => self.host(update_bytes * chunk(unit, number)),
            Operation::AdamRows { rows } => {
                let embedding = self.layout.embedding();
                let next = self.gathered();
                self.host(match rows {
                    // Their weights are gathered as well.
                    RowSet::Next => (update_bytes + 2 * 2) * next,
                    RowSet::Others => update_bytes * (elements(embedding) - next),
                })
            }
            _ => Work::default(),
        }
    }

    /// Bytes of a copy over the link.
    fn copied(&self, operation: &Operation) -> usize {
        let copy = operation.copy(&self.geometry, self.extent);
        match copy.from {
            Resource::HostRows => DType::Bf16.bytes() * self.gathered(),
            _ => content_bytes(self.layout, self.passes, self.policy.numeric.grad_dtype, &copy.content),
        }
    }

    /// Elements of the embedding rows that are uploaded if the embedding is untied. Upper bound:
    /// all tokens of the step differ.
    fn gathered(&self) -> usize {
        let [vocabulary, columns] = self.layout.embedding_shape();
        columns * vocabulary.min(self.extent.micros * self.passes.sizes().shape.n())
    }

    /// RAM traffic of `bytes` at AdamW's rate.
    fn host(&self, bytes: usize) -> Work {
        let mut work = Work::default();
        work.host_bytes[self.policy.mode as usize] = bytes as f64;
        work
    }
}

/// Bytes of a content when it is copied over the link.
///
/// # Panics
/// If such a content is never copied.
pub fn content_bytes(layout: &Layout, passes: &Passes, grad_dtype: DType, content: &Content) -> usize {
    let (sizes, [vocabulary, columns]) = (passes.sizes(), layout.embedding_shape());
    let n = sizes.shape.n();
    match *content {
        Content::Batch(_) => BatchRanges::bytes(sizes.shape),
        Content::Weights(unit) => DType::Bf16.bytes() * layout.unit(unit).elements,
        Content::Activation { .. } => n * columns * sizes.activation_dtype.bytes(),
        Content::Accumulator { unit, .. } => DType::F32.bytes() * layout.unit(unit).elements,
        Content::GradientChunk { unit, chunk } => grad_dtype.bytes() * layout.chunk(unit, chunk).len(),
        Content::Norm(unit) => 8 * layout.unit(unit).norm_blocks(),
        Content::Loss { .. } => 8,
        Content::Logits => 4 * vocabulary,
        Content::Logprobs(_) | Content::Dlogprobs(_) => 4 * n,
        _ => panic!("{content} is never copied"),
    }
}
