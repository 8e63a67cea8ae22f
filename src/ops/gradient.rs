//! What happens to a gradient before it leaves the device: its norm and its rounding; and copies of plain numbers.

use crate::base::{DType, master};
use crate::ops::cpu::cut::{Rows, each};
use crate::ops::cpu::vector::{LANES, vectorised};
use crate::ops::cpu::view::{Element as Number, read, write};
use crate::ops::cpu::{CpuKernels, block};
use crate::ops::cuda::{CudaKernels, address::*, launch};
use crate::ops::op;

op! {
    /// Zeroes memory.
    Zero {
        /// `[bytes]`.
        out: P = Set, Element::Byte, bytes;
    }
    /// Its length.
    bytes: usize;
}

op! {
    /// `square_sum = Σ x²` in f64, in an order fixed by the length.
    SquareSum {
        /// `[1]`.
        square_sum: P = Set, Element::F64, 1;
        /// `[n]`.
        x: P = Read, Element::F32, n;
    }
    /// Elements.
    n: usize;
    {
        fn scratch_bytes(&self) -> usize {
            square_scratch(self.n)
        }
    }
}

op! {
    /// `out = x` rounded: to bf16 by [`crate::base::master::round`], or f32 unchanged.
    Round {
        /// `[n]`.
        out: P = Set, Element::Fixed(to), n;
        /// Set in the same pass, with the bits of [`SquareSum`]; `[1]`.
        square_sum: Option<P> = Set, Element::F64, 1;
        /// `[n]`.
        x: P = Read, Element::F32, n;
    }
    /// The type of the output.
    to: DType;
    /// Elements.
    n: usize;
    {
        fn scratch_bytes(&self) -> usize {
            square_scratch(self.n)
        }
    }
}

op! {
    /// `out = x` as f32: logits that leave the device.
    Widen {
        /// `[n]`.
        out: P = Set, Element::F32, n;
        /// `[n]`.
        x: P = Read, Element::Activation, n;
    }
    /// Elements.
    n: usize;
}

/// Values of a block, and blocks at most, of a sum of squares: those of `csrc/grad.cu`.
const SQUARES: (usize, usize) = (2048, 1024);

/// `hzk_grad_scratch`.
fn square_scratch(elements: usize) -> usize {
    let (values, blocks_max) = SQUARES;
    elements.div_ceil(values).min(blocks_max) * 8
}

/// Elements of a tile: a few hundred KiB, so that a tile is worth waking a worker for.
const ELEMENTS: usize = 1 << 16;

impl Zero {
    pub(super) fn cpu(mut self, cpu: &CpuKernels) {
        let out: &mut [u8] = write(&mut self.out, self.bytes);
        each(&cpu.pool, Rows::new(out, 1, ELEMENTS * 4), |_, (_, out)| out.fill(0));
    }

    pub(super) fn cuda(self, cuda: &CudaKernels) {
        cuda.zero(&self.out, self.bytes);
    }
}

impl SquareSum {
    pub(super) fn cpu(mut self, cpu: &CpuKernels) {
        let x: &[f32] = read(&self.x, self.n);
        let mut partials = cpu.scratch.wide_partials.lock();
        let partials = partials.take(self.n.div_ceil(ELEMENTS));
        each(&cpu.pool, Rows::new(partials, 1, 1), |_, (tile, partial)| {
            partial[0] = squares(&x[block(tile.start, ELEMENTS, x.len())]);
        });
        write(&mut self.square_sum, 1)[0] = partials.iter().sum::<f64>();
    }

    pub(super) fn cuda(self, cuda: &CudaKernels) {
        let SquareSum { square_sum, x, n } = self;
        launch!(cuda.hzk_grad_sumsq(f64s(&square_sum, 1), cuda.scratch_of(&self), f32s(&x, n), n as i64));
    }
}

impl Round {
    pub(super) fn cpu(mut self, cpu: &CpuKernels) {
        let x: &[f32] = read(&self.x, self.n);
        let square_sum = self.square_sum.as_mut().map(|sum| &mut write(sum, 1)[0]);
        match self.to {
            DType::Bf16 => store(cpu, write(&mut self.out, self.n), square_sum, x, round_tile),
            DType::F32 => store(cpu, write(&mut self.out, self.n), square_sum, x, <[f32]>::copy_from_slice),
        }
    }

    pub(super) fn cuda(self, cuda: &CudaKernels) {
        let Round { out, square_sum, x, to, n } = self;
        let square_sum = square_sum.map_or(std::ptr::null_mut(), |sum| f64s(&sum, 1));
        let (scratch, x, count) = (cuda.scratch_of(&self), f32s(&x, n), n as i64);
        match to {
            DType::Bf16 => launch!(cuda.hzk_grad_store(bf16s(&out, n), square_sum, scratch, x, count)),
            DType::F32 => launch!(cuda.hzk_grad_copy(f32s(&out, n), square_sum, scratch, x, count)),
        }
    }
}

impl Widen {
    pub(super) fn cpu(mut self, cpu: &CpuKernels) {
        let x: &[f32] = read(&self.x, self.n);
        store(cpu, write(&mut self.out, self.n), None, x, <[f32]>::copy_from_slice);
    }

    pub(super) fn cuda(self, cuda: &CudaKernels) {
        let Widen { out, x, n } = self;
        launch!(cuda.hzk_widen(f32s(&out, n), bf16s(&x, n), n as i64));
    }
}

/// Stores `x` by tiles. With `square_sum` each tile is squared while it is in the cache, with the tiles and so the bits of
/// [`SquareSum`].
fn store<T: Number>(
    cpu: &CpuKernels,
    out: &mut [T],
    square_sum: Option<&mut f64>,
    x: &[f32],
    store_tile: fn(&mut [T], &[f32]),
) {
    let out = Rows::new(out, 1, ELEMENTS);
    let Some(square_sum) = square_sum else {
        return each(&cpu.pool, out, |_, (elements, out)| store_tile(out, &x[elements]));
    };
    let mut partials = cpu.scratch.wide_partials.lock();
    let partials = partials.take(x.len().div_ceil(ELEMENTS));
    each(&cpu.pool, (out, Rows::new(partials, 1, 1)), |_, ((elements, out), (_, partial))| {
        partial[0] = squares(&x[elements.clone()]);
        store_tile(out, &x[elements]);
    });
    *square_sum = partials.iter().sum();
}

vectorised! {
    /// Σ x² in f64, in lanes folded in a fixed order.
    fn squares(x: &[f32]) -> f64 {
        let mut lanes = [0f64; LANES];
        let mut chunks = x.chunks_exact(LANES);
        for chunk in &mut chunks {
            for lane in 0..LANES {
                let value = f64::from(chunk[lane]);
                lanes[lane] += value * value;
            }
        }
        for (lane, &value) in lanes.iter_mut().zip(chunks.remainder()) {
            *lane += f64::from(value) * f64::from(value);
        }
        lanes.iter().sum()
    }
}

vectorised! {
    /// bf16 by [`master::round`].
    fn round_tile(out: &mut [u16], x: &[f32]) {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = master::round(x);
        }
    }
}
