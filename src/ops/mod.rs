//! F3, the operations: one op a file, forward and backward.
//!
//! [`Kernels`] is arithmetic on *device* memory: the model (F5) is written once against it and
//! runs on any device; [`cpu::CpuKernels`] is the reference. Arithmetic on *host* memory is in
//! [`optim`](crate::optim).
//!
//! # The law of this floor
//! - Rows are row-major; sizes are in elements; letters are those of [`crate::base::Dims`].
//! - *Activations* are of the type [`Kernels::storage`] names (f32 on the CPU, bf16 on CUDA). *Weights* are
//!   bf16 `[out, in]`, as Hugging Face stores them. *Accumulators* (weight gradients), `rstd`, `lse`,
//!   losses are f32; sums over many rows that leave the device are f64.
//! - Every output says whether it is set (`=`) or added to (`+=`); [`Write`] chooses where both exist.
//! - The bits of a result depend on shapes and inputs alone: never on threads, never on timing.
//! - A span that is too short for its shape is a bug and panics.
//! - Outputs overlap no input, except where an operation says "in place" or "may be": then the two start at the
//!   same byte. They never overlap in part.
//! - Spans carry no borrow. A caller of these functions holds the right to read the inputs and to write the
//!   outputs for the length of the call: in the engine the schedule gives that right and `check` proves it.

pub mod cpu;
pub mod cuda;

use crate::base::{DType, Dims, Result, Shape};
use crate::device::DeviceSpan;

/// Whether an output is set or added to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// `=`
    Set,
    /// `+=`
    Add,
}

/// What the head does with each row's loss. Rows with target [`IGNORED_TARGET`](crate::base::IGNORED_TARGET)
/// never count.
#[derive(Clone, Copy, Debug)]
pub struct LossRows {
    /// `i32 [rows]`: the class each row should predict, or `IGNORED_TARGET`.
    pub targets: DeviceSpan,
    /// `f32 [rows]`: the weight of each row; ones when the caller gave none.
    pub weights: DeviceSpan,
    /// 1 / Σ weights over the unmasked targets of the whole step.
    pub scale: f32,
}

/// The rows of a micro-batch in sequences and documents. A row is counted through the micro-batch, b·T + t, and
/// belongs to one document, a range of rows within a sequence.
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    /// B and T; N = B·T.
    pub shape: Shape,
    /// `i32 [N]`: the rotary position of each row, counted from its document's first.
    pub positions: DeviceSpan,
    /// `i32 [N]`: the first row of each row's document. Row n attends to rows `doc_start[n] ..= n`.
    pub doc_start: DeviceSpan,
    /// `i32 [N]`: one past the last row of each row's document.
    pub doc_end: DeviceSpan,
}

/// The tokens of a micro-batch, and its rows sorted by them.
#[derive(Clone, Copy, Debug)]
pub struct TokenRows {
    /// `i32 [N]`: the token of each row.
    pub tokens: DeviceSpan,
    /// `i32 [N]`: the rows sorted by token, those of one token in rising order.
    pub order: DeviceSpan,
    /// `i32 [N + 1]`: for each distinct token, where in `order` its rows begin; `first[distinct]` is N.
    pub first: DeviceSpan,
    /// How many distinct tokens there are.
    pub distinct: usize,
}

/// The sizes of a linear layer's products, `out [N, M] = x [N, K] · weight [M, K]ᵀ`. All is dense but the rows of
/// `out`, of its gradient and of the residual, which lie `out_stride` elements apart; what lies between them is
/// neither read nor written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Linear {
    /// N: rows.
    pub n: usize,
    /// K: columns in.
    pub k: usize,
    /// M: columns out.
    pub m: usize,
    /// Elements from one row of the output to the next; at least M.
    pub out_stride: usize,
}

impl Linear {
    /// A layer whose output is dense.
    pub fn dense(n: usize, k: usize, m: usize) -> Self {
        Linear { n, k, m, out_stride: m }
    }
}

/// Terms added to the sums of [`Kernels::matmul_forward`] before they are rounded: the residual, then the bias.
#[derive(Clone, Copy, Debug, Default)]
pub struct Addends {
    /// A matrix laid out as the output; may be the output itself.
    pub residual: Option<DeviceSpan>,
    /// bf16 `[M]`: added to every row.
    pub bias: Option<DeviceSpan>,
}

/// What some models ask of kernels beside the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// Columns of the widest bias; 0 without one.
    pub bias_columns: usize,
    /// Whether query and key heads are normalised.
    pub qk_norm: bool,
}

/// Bytes of device memory that the kernels which store activations so work in, beside what operations are given.
pub fn workspace_bytes(
    storage: DType,
    dims: &Dims,
    shape: Shape,
    logits_chunk: usize,
    extras: Extras,
) -> usize {
    match storage {
        DType::Bf16 => cuda::workspace::workspace_bytes(dims, shape, logits_chunk, extras),
        DType::F32 => 0,
    }
}

/// Arithmetic on device memory, called inside tasks of the compute lane. See the module for the law.
pub trait Kernels: Send + Sync {
    /// The type activations are stored in.
    fn storage(&self) -> DType;

    /// What decides the order of sums: kernels that give the same text here give the same bits, wherever they run.
    fn arithmetic(&self) -> String;

    /// Whether the first run of an operation may hold up the device, as CUDA does when it loads a kernel: each is then
    /// run once before the first step.
    fn warms_up(&self) -> bool {
        false
    }

    /// The first failure since this was last asked, naming the operation; asked once a task. On a device whose work
    /// is queued, what fails later than its launch shows where the device is waited for.
    fn outcome(&self) -> Result<()> {
        Ok(())
    }

    /// As [`Kernels::outcome`], once all work so far is done.
    fn settle(&self) -> Result<()> {
        self.outcome()
    }

    /// `out [N, C] = table[tokens]`; `table` bf16 `[V, C]`, `tokens` i32 `[N]`, each below V.
    fn embed_forward(
        &self,
        out: DeviceSpan,
        table: DeviceSpan,
        tokens: DeviceSpan,
        n: usize,
        c: usize,
        v: usize,
    );
    /// `dtable [V, C] += ` the rows of `dout [N, C]`, those of one token in row order.
    fn embed_backward(
        &self,
        dtable: DeviceSpan,
        dout: DeviceSpan,
        tokens: &TokenRows,
        n: usize,
        c: usize,
        v: usize,
    );

    /// `out [N, C] = x · rstd · weight`, `rstd [N] = 1 / √(mean(x²) + eps)` (Zhang & Sennrich 2019).
    #[allow(clippy::too_many_arguments)]
    fn rmsnorm_forward(
        &self,
        out: DeviceSpan,
        rstd: DeviceSpan,
        x: DeviceSpan,
        weight: DeviceSpan,
        eps: f32,
        n: usize,
        c: usize,
    );
    /// `dx [N, C]` by `dx_write`, `dweight [C]` by `dweight_write`. `dx` may be `x` itself when it is set.
    #[allow(clippy::too_many_arguments)]
    fn rmsnorm_backward(
        &self,
        dx: DeviceSpan,
        dx_write: Write,
        dweight: DeviceSpan,
        dweight_write: Write,
        dout: DeviceSpan,
        x: DeviceSpan,
        rstd: DeviceSpan,
        weight: DeviceSpan,
        n: usize,
        c: usize,
    );

    /// `out [N, M] = x [N, K] · weightᵀ`, plus the addends; `weight` bf16 `[M, K]`.
    fn matmul_forward(
        &self,
        out: DeviceSpan,
        x: DeviceSpan,
        weight: DeviceSpan,
        addends: Addends,
        sizes: Linear,
    );
    /// `dx [N, K]` by `write`: `dout [N, M] · weight`.
    fn matmul_backward_input(
        &self,
        dx: DeviceSpan,
        write: Write,
        dout: DeviceSpan,
        weight: DeviceSpan,
        sizes: Linear,
    );
    /// `dweight [M, K]` f32 by `write`: `doutᵀ · x`.
    fn matmul_backward_weight(
        &self,
        dweight: DeviceSpan,
        write: Write,
        dout: DeviceSpan,
        x: DeviceSpan,
        sizes: Linear,
    );

    /// `dbias [C]` f32 by `write`: the sum of the rows of `dout [N, C]`.
    fn bias_backward(&self, dbias: DeviceSpan, write: Write, dout: DeviceSpan, n: usize, c: usize);

    /// RMSNorm of every query and every key head by itself, as in Qwen3: `out [N, (H+2G)·D] =` the heads of `qkv`
    /// normalised, the values as they are. `weights` bf16 `[D]` are one for all query heads and one for all key heads;
    /// `rstd` f32 holds those of the query heads, `[N, H]`, then those of the key heads, `[N, G]`.
    #[allow(clippy::too_many_arguments)]
    fn qk_norm_forward(
        &self,
        out: DeviceSpan,
        rstd: DeviceSpan,
        qkv: DeviceSpan,
        weights: [DeviceSpan; 2],
        eps: f32,
        n: usize,
        dims: &Dims,
    );
    /// The gradient of `out` becomes that of `qkv` in place, `dqkv [N, (H+2G)·D]`; `dweights` f32 `[D]` by `write`.
    #[allow(clippy::too_many_arguments)]
    fn qk_norm_backward(
        &self,
        dqkv: DeviceSpan,
        dweights: [DeviceSpan; 2],
        write: Write,
        qkv: DeviceSpan,
        rstd: DeviceSpan,
        weights: [DeviceSpan; 2],
        n: usize,
        dims: &Dims,
    );

    /// Rotates the query and key heads of `qkv [N, (H+2G)·D]` in place by their positions: pairs (i, i + D/2), the
    /// angle the f32 product position · `inv_freq[i]` (Su et al. 2021, in Hugging Face's half-split order).
    /// `inv_freq` is f32 `[D/2]`.
    fn rope_forward(&self, qkv: DeviceSpan, rows: &Rows, inv_freq: DeviceSpan, dims: &Dims);
    /// The inverse rotation of `dqkv` in place.
    fn rope_backward(&self, dqkv: DeviceSpan, rows: &Rows, inv_freq: DeviceSpan, dims: &Dims);

    /// Causal grouped-query attention within documents, scale 1/√D. `out [N, H·D]`, `lse [H, N]` f32 the
    /// log-sum-exp of each row's scaled scores; `qkv [N, (H+2G)·D]` rotated. With `window` > 0 row i sees row j only
    /// when i − j < window. Memory linear in T (Dao et al. 2022).
    fn attention_forward(
        &self,
        out: DeviceSpan,
        lse: DeviceSpan,
        qkv: DeviceSpan,
        rows: &Rows,
        window: usize,
        dims: &Dims,
    );
    /// `dqkv [N, (H+2G)·D] =`, from `dout [N, H·D]` and what forward left.
    #[allow(clippy::too_many_arguments)]
    fn attention_backward(
        &self,
        dqkv: DeviceSpan,
        dout: DeviceSpan,
        out: DeviceSpan,
        lse: DeviceSpan,
        qkv: DeviceSpan,
        rows: &Rows,
        window: usize,
        dims: &Dims,
    );

    /// `out [N, F] = silu(gate) · up`, with `gate_up [N, 2F]` holding gate then up in each row (Shazeer 2020).
    fn swiglu_forward(&self, out: DeviceSpan, gate_up: DeviceSpan, n: usize, f: usize);
    /// `dgate_up [N, 2F] =` over `gate_up` in place, from `dout [N, F]`.
    fn swiglu_backward(&self, gate_up: DeviceSpan, dout: DeviceSpan, n: usize, f: usize);

    /// Softmax cross-entropy over a chunk of rows: `loss += Σ weight · nll` (f64 `[1]`, in an order fixed by n).
    /// Rows of `logits [n, V]` lie `stride` elements apart; what lies between them is neither read nor written.
    fn cross_entropy_forward(
        &self,
        loss: DeviceSpan,
        logits: DeviceSpan,
        rows: &LossRows,
        n: usize,
        v: usize,
        stride: usize,
    );
    /// The same, and `logits` become their gradient in place: weight · scale · (softmax − onehot), zero for ignored
    /// rows.
    fn cross_entropy_forward_backward(
        &self,
        loss: DeviceSpan,
        logits: DeviceSpan,
        rows: &LossRows,
        n: usize,
        v: usize,
        stride: usize,
    );
    /// `logprobs` f32 `[n] =` logit of the target − log-sum-exp of the row, zero for ignored rows; the logits stay.
    /// Rows of `logits [n, V]` lie `stride` elements apart; `targets` i32 `[n]`.
    fn cross_entropy_logprobs(
        &self,
        logprobs: DeviceSpan,
        logits: DeviceSpan,
        targets: DeviceSpan,
        n: usize,
        v: usize,
        stride: usize,
    );
    /// `logits` become their gradient in place under a loss of which `dlogprobs` f32 `[n]` is the gradient of each
    /// row's log-probability: dlogprob · (onehot − softmax), zero for ignored rows. With dlogprob = −weight · scale the
    /// bits are those of [`Kernels::cross_entropy_forward_backward`].
    fn cross_entropy_backward(
        &self,
        logits: DeviceSpan,
        targets: DeviceSpan,
        dlogprobs: DeviceSpan,
        n: usize,
        v: usize,
        stride: usize,
    );

    /// Sets `bytes` of memory to zero.
    fn zero(&self, out: DeviceSpan);
    /// `out` f64 `[1] = Σ x²` over f32 `x`, summed in an order fixed by the length.
    fn sum_of_squares(&self, out: DeviceSpan, x: DeviceSpan);
    /// `out = x` rounded to `to`: bf16 by [`crate::base::master::round`], or f32 unchanged. `square_sum`, when given, is set
    /// in the same pass, with the bits of [`Kernels::sum_of_squares`].
    fn round(&self, out: DeviceSpan, square_sum: Option<DeviceSpan>, x: DeviceSpan, to: DType);
    /// `out` f32 `= x` of the storage type (for logits that leave the device).
    fn widen(&self, out: DeviceSpan, x: DeviceSpan);
}
