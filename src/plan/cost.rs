//! How long an operation takes: its arithmetic and its traffic, counted from the model's sizes, over the
//! rates of a machine.

use serde::{Deserialize, Serialize};

use crate::base::{DType, Dims, PartIndex, Shape, UnitIndex};
use crate::device::Lane;
use crate::model::{Biases, Layout, ModelConfig, UnitKind};
use crate::plan::BatchPlaces;
use crate::plan::machine::by_lane;
use crate::schedule::{Operation, Policy, Recompute, Share};

/// What a machine can do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Rate of matrix products, FLOP/s, by the [class](MATRIX_CLASSES) of their shape.
    pub matrix_flop_per_s: [f64; MATRIX_CLASSES.len() + 1],
    /// Rate of attention, FLOP/s.
    pub attention_flop_per_s: f64,
    /// Device memory as element-wise kernels see it, bytes/s.
    pub device_bytes_per_s: f64,
    /// Link, host to device, bytes/s.
    pub up_bytes_per_s: f64,
    /// Link, device to host, bytes/s.
    pub down_bytes_per_s: f64,
    /// RAM as AdamW sees it, bytes/s.
    pub host_bytes_per_s: f64,
    /// What saves go to, bytes/s.
    pub disk_bytes_per_s: f64,
    /// What a task takes on each lane before it has done anything, seconds.
    #[serde(with = "by_lane")]
    pub latency_s: [f64; Lane::COUNT],
    /// What lanes have in common, so that they slow one another down.
    pub common: Vec<Common>,
}

/// Something that several lanes use: cores, RAM, both directions of a link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Common {
    /// What it is.
    pub name: String,
    /// The part of it that each lane uses while it runs alone; what runs together and uses more than 1 takes longer in
    /// proportion.
    #[serde(with = "by_lane")]
    pub used: Share,
}

/// Where classes of products end, by the smallest of the three sizes N, K and M: up to 128, up to 512, and beyond.
pub const MATRIX_CLASSES: [usize; 2] = [128, 512];

/// What an operation asks of a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// Multiplications and additions in matrix products, by the [class](MATRIX_CLASSES) of their shape.
    pub matrix_flop: [f64; MATRIX_CLASSES.len() + 1],
    /// Multiplications and additions in attention.
    pub attention_flop: f64,
    /// Device memory read and written by kernels that are not matrix products.
    pub device_bytes: f64,
    /// Bytes over the link to the device.
    pub up_bytes: f64,
    /// Bytes over the link to the host.
    pub down_bytes: f64,
    /// RAM read and written by AdamW.
    pub host_bytes: f64,
    /// Bytes saved.
    pub disk_bytes: f64,
}

impl Machine {
    /// How long a lane of this machine is at some work, ns.
    pub fn ns(&self, lane: Lane, work: &Work) -> u64 {
        let seconds = self.latency_s[lane.at()]
            + work
                .matrix_flop
                .iter()
                .zip(&self.matrix_flop_per_s)
                .map(|(flop, rate)| flop / rate)
                .sum::<f64>()
            + work.attention_flop / self.attention_flop_per_s
            + work.device_bytes / self.device_bytes_per_s
            + work.up_bytes / self.up_bytes_per_s
            + work.down_bytes / self.down_bytes_per_s
            + work.host_bytes / self.host_bytes_per_s
            + work.disk_bytes / self.disk_bytes_per_s;
        (seconds * 1e9).round() as u64
    }
}

impl Machine {
    /// What lanes have in common.
    pub fn shares(&self) -> Vec<Share> {
        self.common.iter().map(|common| common.used).collect()
    }
}

impl Work {
    /// A product of these three sizes, so many times.
    fn product(times: f64, sizes: [usize; 3]) -> Work {
        let smallest = sizes.into_iter().min().expect("there are three");
        let class = MATRIX_CLASSES.iter().filter(|end| smallest > **end).count();
        let mut work = Work::default();
        work.matrix_flop[class] = times * 2.0 * sizes.into_iter().map(|size| size as f64).product::<f64>();
        work
    }

    /// All multiplications and additions in matrix products.
    pub fn products(&self) -> f64 {
        self.matrix_flop.iter().sum()
    }
}

impl std::ops::Add for Work {
    type Output = Work;

    fn add(self, other: Work) -> Work {
        Work {
            matrix_flop: std::array::from_fn(|class| self.matrix_flop[class] + other.matrix_flop[class]),
            attention_flop: self.attention_flop + other.attention_flop,
            device_bytes: self.device_bytes + other.device_bytes,
            up_bytes: self.up_bytes + other.up_bytes,
            down_bytes: self.down_bytes + other.down_bytes,
            host_bytes: self.host_bytes + other.host_bytes,
            disk_bytes: self.disk_bytes + other.disk_bytes,
        }
    }
}

/// The work of every operation of a model under a policy.
#[derive(Clone, Copy, Debug)]
pub struct Cost<'a> {
    config: &'a ModelConfig,
    dims: Dims,
    layout: &'a Layout,
    shape: Shape,
    grad_dtype: DType,
    moment_dtype: DType,
    storage: DType,
}

impl<'a> Cost<'a> {
    /// `storage` is the device's type of activations.
    pub fn new(config: &'a ModelConfig, layout: &'a Layout, policy: &Policy, storage: DType) -> Self {
        let numeric = policy.numeric;
        Cost {
            config,
            dims: config.dims,
            layout,
            shape: numeric.shape,
            grad_dtype: numeric.grad_dtype,
            moment_dtype: policy.mode.moment_dtype(),
            storage,
        }
    }

    /// How long an operation takes on a machine, ns.
    pub fn ns(&self, machine: &Machine, operation: &Operation) -> u64 {
        machine.ns(operation.lane(), &self.work(operation))
    }

    /// Bytes that an operation moves over the link, if that is what it does.
    pub fn wire_bytes(&self, operation: &Operation) -> Option<u64> {
        let work = self.work(operation);
        matches!(operation.lane(), Lane::H2d | Lane::D2h).then_some((work.up_bytes + work.down_bytes) as u64)
    }

    /// What an operation asks of the machine.
    pub fn work(&self, operation: &Operation) -> Work {
        let (n, Dims { c, f, v, .. }) = (self.shape.n(), self.dims);
        let up = |bytes: usize| Work { up_bytes: bytes as f64, ..Work::default() };
        let down = |bytes: usize| Work { down_bytes: bytes as f64, ..Work::default() };
        match *operation {
            Operation::UploadBatch { .. } => up(BatchPlaces::bytes(self.shape)),
            // Of an untied embedding the most that can be: every row.
            Operation::Upload { unit, .. } => up(2 * self.elements(unit)),
            Operation::EmbedForward { .. } => touched(n * c * (2 + self.storage.bytes())),
            Operation::Forward { unit, .. } => self.activations(unit) + self.down_product(),
            Operation::SpillBoundary { .. } => down(n * c * self.storage.bytes()),
            Operation::FetchBoundary { .. } => up(n * c * self.storage.bytes()),
            Operation::HeadForwardBackward { .. } | Operation::HeadBackward { .. } => {
                self.head(n, 3.0) + self.rows(6 * c)
            }
            Operation::HeadForward { .. } | Operation::HeadLogprobs { .. } => self.head(n, 1.0),
            Operation::DownloadLogprobs { .. } => down(4 * n),
            Operation::UploadDlogprobs { .. } => up(4 * n),
            Operation::HeadLogits => self.head(1, 1.0) + touched(4 * v),
            Operation::RecomputeBackward { unit, recompute, .. } => match recompute {
                Recompute::Full => self.activations(unit) + self.backward(unit),
                // Norms and SwiGLU; after a norm of heads their rotation, too.
                Recompute::Selective => self.rows(2 * 2 * c + 3 * f + self.qk_norm(1)) + self.backward(unit),
                Recompute::None => self.backward(unit),
            },
            Operation::EmbedBackward { .. } => touched(n * c * (8 + self.storage.bytes())),
            Operation::Norm { unit, .. } => touched(4 * self.elements(unit)),
            Operation::Round { unit, part, .. } => {
                touched((4 + self.grad_dtype.bytes()) * self.part(unit, part))
            }
            Operation::SpillSum { unit, .. } => down(4 * self.elements(unit)),
            Operation::FetchSum { unit, .. } => up(4 * self.elements(unit)),
            Operation::Download { unit, part, .. } => down(self.grad_dtype.bytes() * self.part(unit, part)),
            Operation::DownloadNorm { .. } | Operation::DownloadLoss => down(8),
            Operation::DownloadLogits => down(4 * v),
            Operation::Loss | Operation::Decide { .. } => Work::default(),
            // Weights, residual and moments.
            Operation::Save { unit } => {
                let bytes = (2 + 2 + 2 * self.moment_dtype.bytes()) * self.elements(unit);
                Work { disk_bytes: bytes as f64, ..Work::default() }
            }
            // Weights, residual and moments are read and written, the gradient is read.
            Operation::Adam { unit, part, .. } => {
                let bytes = 2 * (2 + 2 + 2 * self.moment_dtype.bytes()) + self.grad_dtype.bytes();
                Work { host_bytes: (bytes * self.part(unit, part)) as f64, ..Work::default() }
            }
        }
    }

    fn elements(&self, unit: UnitIndex) -> usize {
        self.layout.unit(unit).elements
    }

    fn part(&self, unit: UnitIndex, part: PartIndex) -> usize {
        self.layout.part(unit, part).len()
    }

    /// Traffic of so many columns of activations.
    fn rows(&self, columns: usize) -> Work {
        touched(self.shape.n() * columns * self.storage.bytes())
    }

    /// A product of the micro-batch's rows with a `[columns_out, columns_in]` matrix, or one of its two gradients.
    fn product(&self, columns_in: usize, columns_out: usize) -> Work {
        Work::product(1.0, [self.shape.n(), columns_in, columns_out])
    }

    /// So many FLOP for each head's dimension and each pair of a row and what it attends to in a layer, documents as
    /// long as their sequences.
    fn attention(&self, unit: UnitIndex, flop: f64) -> Work {
        let t = self.shape.t;
        let window = match self.layout.unit(unit).kind {
            UnitKind::Layer(layer) => self.config.window_of(layer),
            UnitKind::Embedding | UnitKind::Head => 0,
        };
        let seen = if window == 0 { t } else { window.min(t) };
        // The first rows see 1, 2, … rows, and the others as many as the window holds.
        let pairs = (self.shape.b * (seen * (seen + 1) / 2 + (t - seen) * seen)) as f64;
        Work { attention_flop: flop * pairs * self.dims.attended() as f64, ..Work::default() }
    }

    /// Columns that all biases of a layer are added to.
    fn biased(&self) -> usize {
        let (Biases { qkv, o, mlp }, Dims { c, f, .. }) = (self.config.biases, self.dims);
        usize::from(qkv) * self.dims.qkv() + usize::from(o) * c + usize::from(mlp) * (2 * f + c)
    }

    /// Columns that the norm of heads reads and writes, and `rotations` of its result, where there is one.
    fn qk_norm(&self, rotations: usize) -> usize {
        let Dims { h, g, d, .. } = self.dims;
        usize::from(self.config.qk_norm) * 2 * (self.dims.qkv() + rotations * (h + g) * d)
    }

    /// A layer up to the product of gate and up.
    fn activations(&self, unit: UnitIndex) -> Work {
        let Dims { c, f, h, g, d, .. } = self.dims;
        self.product(c, self.dims.qkv())
            + self.product(self.dims.attended(), c)
            + self.product(c, 2 * f)
            // Scores and their sums with the values.
            + self.attention(unit, 4.0)
            // Two norms read and write a row each; queries and keys are rotated in place.
            + self.rows(2 * 2 * c + 2 * (h + g) * d + 3 * f + self.qk_norm(0) + 2 * self.biased())
    }

    fn down_product(&self) -> Work {
        self.product(self.dims.f, self.dims.c)
    }

    /// A layer's backward, from its activations: of every product two gradients.
    fn backward(&self, unit: UnitIndex) -> Work {
        let Dims { c, f, h, g, d, .. } = self.dims;
        let products = [(c, self.dims.qkv()), (self.dims.attended(), c), (c, 2 * f), (f, c)];
        let gradients = products.into_iter().fold(Work::default(), |sum, (columns_in, columns_out)| {
            sum + self.product(columns_in, columns_out) + self.product(columns_in, columns_out)
        });
        // Scores again, and the gradients of scores, values, queries and keys.
        gradients
            + self.attention(unit, 10.0)
            + self.rows(2 * 4 * c + 2 * (h + g) * d + 5 * f + self.qk_norm(0) + self.biased())
    }

    /// The head over so many rows: its product `products` times, and the logits read or written as often.
    fn head(&self, rows: usize, products: f64) -> Work {
        let Dims { c, v, .. } = self.dims;
        let bytes = (rows * (2 * c + v) * self.storage.bytes()) as f64 * products.min(2.0);
        // Rows come in chunks, and the last one may be short.
        Work::product(products, [rows, c, v]) + Work { device_bytes: bytes, ..Work::default() }
    }
}

fn touched(bytes: usize) -> Work {
    Work { device_bytes: bytes as f64, ..Work::default() }
}
