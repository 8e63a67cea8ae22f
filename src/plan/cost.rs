//! How long an operation takes: its arithmetic and its traffic, counted from the model's sizes, over the
//! rates of a machine.

use serde::{Deserialize, Serialize};

use crate::base::{DType, Dims, PartIndex, Shape, UnitIndex};
use crate::device::Lane;
use crate::model::{Biases, Layout, ModelConfig, UnitKind};
use crate::plan::BatchPlaces;
use crate::plan::machine::by_lane;
use crate::schedule::{Mode, Operation, Policy, Recompute, RowSet, Share, Simulator};

/// What a machine can do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Rate of matrix products, FLOP/s, by the [class](MATRIX_CLASSES) of their shape.
    pub matrix_flop_per_s: [f64; MATRIX_CLASSES.len() + 1],
    /// Rates of attention, forward and backward, FLOP/s.
    pub attention_flop_per_s: [f64; 2],
    /// Device memory as element-wise kernels see it, bytes/s.
    pub device_bytes_per_s: f64,
    /// Link, host to device, bytes/s.
    pub up_bytes_per_s: f64,
    /// Link, device to host, bytes/s.
    pub down_bytes_per_s: f64,
    /// RAM as AdamW sees it, bytes/s: in modes exact, streamed and compact.
    pub host_bytes_per_s: [f64; 3],
    /// RAM itself, the most that whoever reads and writes it moves together, bytes/s.
    pub ram_bytes_per_s: f64,
    /// What saves go to, bytes/s.
    pub disk_bytes_per_s: f64,
    /// From the end of a kernel to the beginning of the next, seconds.
    pub launch_s: f64,
    /// What a task takes on each lane before it has done anything, seconds.
    #[serde(with = "by_lane")]
    pub latency_s: [f64; Lane::COUNT],
    /// From the end of a task to the beginning of one on another lane that waited for it, seconds.
    pub handoff_s: f64,
    /// What lanes have in common beside RAM, so that they slow one another down.
    pub common: Vec<Common>,
}

/// Something that several lanes use: cores, both directions of a link.
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
    /// Kernels.
    pub launches: f64,
    /// Multiplications and additions in matrix products, by the [class](MATRIX_CLASSES) of their shape.
    pub matrix_flop: [f64; MATRIX_CLASSES.len() + 1],
    /// Multiplications and additions in attention, forward and backward.
    pub attention_flop: [f64; 2],
    /// Device memory read and written by kernels that are not matrix products, and the weights of those that are: that
    /// traffic does not grow with the rows, as the rest of a product does.
    pub device_bytes: f64,
    /// Bytes over the link to the device.
    pub up_bytes: f64,
    /// Bytes over the link to the host.
    pub down_bytes: f64,
    /// RAM read and written by AdamW, by mode.
    pub host_bytes: [f64; 3],
    /// Bytes saved.
    pub disk_bytes: f64,
}

impl Machine {
    /// How long a lane of this machine is at some work, ns.
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

    /// The machine's lanes in virtual time, in steps of a mode.
    pub fn simulator(&self, mode: Mode) -> Simulator {
        let common = self.common.iter().map(|common| common.used);
        let shares = common.chain([self.ram_used(mode)]).collect();
        Simulator::sharing(shares, (self.handoff_s * 1e9).round() as u64)
    }

    /// The part of RAM that each lane uses while it runs alone, at its own rate: copies and saves go over a byte once, AdamW's
    /// bytes are counted as it reads and writes them. A device whose memory is this RAM uses more of it, and cores before it.
    fn ram_used(&self, mode: Mode) -> Share {
        let mut used = [0.0; Lane::COUNT];
        for (lane, bytes_per_s) in [
            (Lane::H2d, self.up_bytes_per_s),
            (Lane::D2h, self.down_bytes_per_s),
            (Lane::Host, self.host_bytes_per_s[mode as usize]),
            (Lane::Disk, self.disk_bytes_per_s),
        ] {
            // A lane alone takes no longer than it does alone.
            used[lane.at()] = (bytes_per_s / self.ram_bytes_per_s).min(1.0);
        }
        used
    }
}

impl Work {
    /// The same work so many times.
    fn times(self, times: usize) -> Work {
        let times = times as f64;
        Work {
            launches: self.launches * times,
            matrix_flop: self.matrix_flop.map(|flop| flop * times),
            attention_flop: self.attention_flop.map(|flop| flop * times),
            device_bytes: self.device_bytes * times,
            up_bytes: self.up_bytes * times,
            down_bytes: self.down_bytes * times,
            host_bytes: self.host_bytes.map(|bytes| bytes * times),
            disk_bytes: self.disk_bytes * times,
        }
    }

    /// A product of these three sizes.
    fn product(sizes: [usize; 3]) -> Work {
        let smallest = sizes.into_iter().min().expect("there are three");
        let class = MATRIX_CLASSES.iter().filter(|end| smallest > **end).count();
        let mut work = Work { launches: 1.0, ..Work::default() };
        work.matrix_flop[class] = 2.0 * sizes.into_iter().map(|size| size as f64).product::<f64>();
        work
    }

    /// Kernels that read and write so many bytes of device memory.
    fn kernels(launches: usize, device_bytes: usize) -> Work {
        Work { launches: launches as f64, device_bytes: device_bytes as f64, ..Work::default() }
    }

    /// All multiplications and additions in matrix products.
    pub fn products(&self) -> f64 {
        self.matrix_flop.iter().sum()
    }
}

impl std::iter::Sum for Work {
    fn sum<I: Iterator<Item = Work>>(parts: I) -> Work {
        parts.fold(Work::default(), std::ops::Add::add)
    }
}

impl std::ops::Add for Work {
    type Output = Work;

    fn add(self, other: Work) -> Work {
        Work {
            launches: self.launches + other.launches,
            matrix_flop: std::array::from_fn(|class| self.matrix_flop[class] + other.matrix_flop[class]),
            attention_flop: std::array::from_fn(|way| self.attention_flop[way] + other.attention_flop[way]),
            device_bytes: self.device_bytes + other.device_bytes,
            up_bytes: self.up_bytes + other.up_bytes,
            down_bytes: self.down_bytes + other.down_bytes,
            host_bytes: std::array::from_fn(|mode| self.host_bytes[mode] + other.host_bytes[mode]),
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
    micros: usize,
    /// Rows of the head's chunks.
    chunk: usize,
    grad_dtype: DType,
    mode: Mode,
    storage: DType,
    /// Layers that see all rows before theirs, and those with a window: every operation of a layer asks for them.
    layers: [LayerWork; 2],
}

/// A micro-batch's work in a layer.
#[derive(Clone, Copy, Debug, Default)]
struct LayerWork {
    /// Up to the product of gate and up, and SwiGLU.
    activations: Work,
    /// Backward, from the activations.
    backward: Work,
}

impl<'a> Cost<'a> {
    /// Of steps of `micros` micro-batches; `storage` is the device's type of activations.
    pub fn new(
        config: &'a ModelConfig,
        layout: &'a Layout,
        policy: &Policy,
        micros: usize,
        storage: DType,
    ) -> Self {
        let numeric = policy.numeric;
        let mut cost = Cost {
            config,
            dims: config.dims,
            layout,
            shape: numeric.shape,
            micros,
            chunk: numeric.logits_chunk,
            grad_dtype: numeric.grad_dtype,
            mode: policy.mode,
            storage,
            layers: Default::default(),
        };
        let window = config.window.as_ref().map_or(0, |window| window.size);
        cost.layers = [0, window].map(|window| LayerWork {
            activations: cost.activations(window),
            backward: cost.backward(window),
        });
        cost
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
            Operation::Upload { unit, .. } => up(2 * self.uploaded(unit)),
            Operation::EmbedForward { .. } => Work::kernels(1, n * c * (2 + self.storage.bytes())),
            Operation::Forward { unit, .. } => self.layer(unit).activations + self.product(f, c),
            Operation::SpillBoundary { .. } => down(n * c * self.storage.bytes()),
            Operation::FetchBoundary { .. } => up(n * c * self.storage.bytes()),
            Operation::HeadForwardBackward { .. } | Operation::HeadBackward { .. } => {
                self.head(n, true) + self.rows(2, 6 * c)
            }
            Operation::HeadForward { .. } | Operation::HeadLogprobs { .. } => {
                self.head(n, false) + self.rows(1, 2 * c)
            }
            Operation::DownloadLogprobs { .. } => down(4 * n),
            Operation::UploadDlogprobs { .. } => up(4 * n),
            Operation::HeadLogits => self.head(1, false),
            Operation::RecomputeBackward { unit, recompute, .. } => match recompute {
                Recompute::Full => self.layer(unit).activations + self.layer(unit).backward,
                // Norms and SwiGLU; after a norm of heads their rotation, too.
                Recompute::Selective => {
                    self.rows(3, 2 * 2 * c + 3 * f + self.qk_norm(1)) + self.layer(unit).backward
                }
                Recompute::None => self.layer(unit).backward,
            },
            // The first one zeroes the whole gradient, unless a tied head has made it.
            Operation::EmbedBackward { micro } => {
                let zeroed = if micro.at() == 0 && !self.layout.tied { 4 * v * c } else { 0 };
                Work::kernels(1, n * c * (8 + self.storage.bytes()) + zeroed)
            }
            Operation::Norm { unit, .. } => {
                Work::kernels(self.layout.unit(unit).tensors.len(), 4 * self.elements(unit))
            }
            Operation::Round { unit, part, .. } => {
                let launches = self.layout.part_runs(unit, part).count();
                Work::kernels(launches, (4 + self.grad_dtype.bytes()) * self.part(unit, part))
            }
            Operation::SpillSum { unit, .. } => down(4 * self.elements(unit)),
            Operation::FetchSum { unit, .. } => up(4 * self.elements(unit)),
            Operation::Download { unit, part, .. } => down(self.grad_dtype.bytes() * self.part(unit, part)),
            Operation::DownloadNorm { unit, .. } => down(8 * self.layout.unit(unit).norm_blocks()),
            Operation::DownloadLoss => down(8),
            Operation::DownloadLogits => down(4 * v),
            Operation::Loss | Operation::Decide { .. } => Work::default(),
            Operation::Save { unit } => {
                Work { disk_bytes: (self.state_bytes() * self.elements(unit)) as f64, ..Work::default() }
            }
            Operation::Adam { unit, part, .. } => self.host(self.adam_bytes() * self.part(unit, part)),
            Operation::AdamRows { rows, .. } => {
                let embedding = self.layout.embedding();
                let next = self.uploaded(embedding);
                self.host(match rows {
                    // Their weights are gathered, too.
                    RowSet::Next => (self.adam_bytes() + 2 * 2) * next,
                    RowSet::Others => self.adam_bytes() * (self.elements(embedding) - next),
                })
            }
        }
    }

    /// Bytes of an element that AdamW reads and writes: its state both ways, and the gradient.
    fn adam_bytes(&self) -> usize {
        self.mode.optimizer().traffic_bytes(self.grad_dtype)
    }

    /// RAM traffic of `bytes` at AdamW's rate.
    fn host(&self, bytes: usize) -> Work {
        let mut work = Work::default();
        work.host_bytes[self.mode as usize] = bytes as f64;
        work
    }

    /// Bytes of a parameter's weight, residual and moments.
    fn state_bytes(&self) -> usize {
        self.mode.optimizer().parameter_bytes()
    }

    fn layer(&self, unit: UnitIndex) -> &LayerWork {
        let has_window = match self.layout.unit(unit).kind {
            UnitKind::Layer(layer) => self.config.window_of(layer) > 0,
            UnitKind::Embedding | UnitKind::Head => false,
        };
        &self.layers[usize::from(has_window)]
    }

    fn elements(&self, unit: UnitIndex) -> usize {
        self.layout.unit(unit).elements
    }

    fn part(&self, unit: UnitIndex, part: PartIndex) -> usize {
        self.layout.part(unit, part).len()
    }

    /// Kernels with traffic of so many columns of activations.
    fn rows(&self, launches: usize, columns: usize) -> Work {
        Work::kernels(launches, self.shape.n() * columns * self.storage.bytes())
    }

    /// What a product with so many weights reads of them: bf16. A device whose activations are f32 widens them first, which
    /// writes and reads them again.
    fn weights(&self, count: usize) -> Work {
        let widened = if self.storage == DType::F32 { 2 * self.storage.bytes() } else { 0 };
        Work::kernels(0, (2 + widened) * count)
    }

    /// A product of the micro-batch's rows with a `[columns_out, columns_in]` matrix, or the gradient of its input.
    fn product(&self, columns_in: usize, columns_out: usize) -> Work {
        Work::product([self.shape.n(), columns_in, columns_out]) + self.weights(columns_in * columns_out)
    }

    /// Both gradients of such a product: that of its input, and that of its weights, which are not read for it.
    fn gradients(&self, columns_in: usize, columns_out: usize) -> Work {
        self.product(columns_in, columns_out) + Work::product([self.shape.n(), columns_in, columns_out])
    }

    /// Multiplications and additions of attention in a layer, `flop` for each head's dimension and each pair of a row and
    /// what it attends to. Pairs come in whole blocks, which nobody cuts at the diagonal (Dao et al. 2022); documents are as long as
    /// their sequences.
    fn attention(&self, window: usize, flop: f64) -> f64 {
        const BLOCK: usize = 64;
        let t = self.shape.t.div_ceil(BLOCK);
        // A window that ends within a block begins within another.
        let seen = if window == 0 { t } else { (1 + (window - 1).div_ceil(BLOCK)).min(t) };
        // The first rows see 1, 2, … blocks, and the others as many as the window touches.
        let blocks = self.shape.b * (seen * (seen + 1) / 2 + (t - seen) * seen);
        flop * (blocks * BLOCK * BLOCK) as f64 * self.dims.attended() as f64
    }

    /// Elements of a unit that go up: of an untied embedding the rows that a step's tokens name, all different at the most.
    fn uploaded(&self, unit: UnitIndex) -> usize {
        if unit == self.layout.embedding() && !self.config.tied {
            return self.dims.c * self.dims.v.min(self.micros * self.shape.n());
        }
        self.elements(unit)
    }

    /// Biases, and their columns.
    fn biased(&self) -> (usize, usize) {
        let (Biases { qkv, o, mlp }, Dims { c, f, .. }) = (self.config.biases, self.dims);
        let all = [(qkv, self.dims.qkv()), (o, c), (mlp, 2 * f), (mlp, c)];
        let there = all.into_iter().filter(|(is_there, _)| *is_there);
        there.fold((0, 0), |(kernels, sum), (_, columns)| (kernels + 1, sum + columns))
    }

    /// Columns that the norm of heads reads and writes, and `rotations` of its result, where there is one.
    fn qk_norm(&self, rotations: usize) -> usize {
        let Dims { h, g, d, .. } = self.dims;
        usize::from(self.config.qk_norm) * 2 * (self.dims.qkv() + rotations * (h + g) * d)
    }

    /// A layer up to the product of gate and up, and SwiGLU.
    fn activations(&self, window: usize) -> Work {
        let Dims { c, f, h, g, d, .. } = self.dims;
        self.product(c, self.dims.qkv())
            + self.product(self.dims.attended(), c)
            + self.product(c, 2 * f)
            // Scores and their sums with the values.
            + Work { launches: 1.0, attention_flop: [self.attention(window, 4.0), 0.0], ..Work::default() }
            // Two norms read and write a row each; queries and keys are rotated in place.
            + self.rows(4, 2 * 2 * c + 2 * (h + g) * d + 3 * f + self.qk_norm(0))
    }

    /// A layer's backward, from its activations.
    fn backward(&self, window: usize) -> Work {
        let Dims { c, f, h, g, d, .. } = self.dims;
        let (biases, biased) = self.biased();
        let products = [(c, self.dims.qkv()), (self.dims.attended(), c), (c, 2 * f), (f, c)];
        products.into_iter().map(|(columns_in, columns_out)| self.gradients(columns_in, columns_out)).sum::<Work>()
            // Scores again, and the gradients of scores, values, queries and keys.
            + Work { launches: 1.0, attention_flop: [0.0, self.attention(window, 10.0)], ..Work::default() }
            + self.rows(4 + biases, 2 * 4 * c + 2 * (h + g) * d + 5 * f + self.qk_norm(0) + biased)
    }

    /// The head's products over so many rows, chunk by chunk, and the logits, read and written; `backward` with gradients.
    fn head(&self, rows: usize, backward: bool) -> Work {
        let Dims { c, v, .. } = self.dims;
        let chunk = |rows: usize| {
            let logits = Work::product([rows, c, v]) + self.weights(c * v);
            let passes = if backward { 2 } else { 1 };
            let loss = Work::kernels(1, rows * (2 * c + v) * self.storage.bytes() * passes);
            // The gradient of the input reads the weights as the logits do.
            let gradients = if backward { logits + Work::product([rows, c, v]) } else { Work::default() };
            logits + loss + gradients
        };
        let (whole, rest) = (rows / self.chunk, rows % self.chunk);
        chunk(self.chunk).times(whole) + if rest > 0 { chunk(rest) } else { Work::default() }
    }
}
