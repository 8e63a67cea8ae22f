//! Zeroing, squared sums for the gradient norm, and rounding of gradients before they are copied to the host.

use crate::base::{DType, master};
use crate::ops::cpu::cut::{Rows, each};
use crate::ops::cpu::vector::{LANES, vectorised};
use crate::ops::cpu::view::{Element as Number, read, write};
use crate::ops::cpu::{CpuKernels, block};
use crate::ops::cuda::{CudaKernels, address::*, launch};
use crate::ops::{NORM_BLOCK, op};

op! {
    /// Zeroes memory.
    Zero {
        /// `[bytes]`.
        out: P = Set, Element::Byte, bytes;
    }
    /// Length in bytes.
    bytes: usize;
}

op! {
    /// `squares =` Σ x² for each block of [`NORM_BLOCK`] elements, summed in a fixed order.
    Squares {
        /// `[⌈n / NORM_BLOCK⌉]`.
        squares: P = Set, Element::F64, n.div_ceil(NORM_BLOCK);
        /// `[n]`.
        x: P = Read, Element::F32, n;
    }
    /// Elements.
    n: usize;
}

op! {
    /// `out = x` rounded to bf16 by [`crate::base::master::round`], or as unchanged f32.
    Round {
        /// `[n]`.
        out: P = Set, Element::Fixed(to), n;
        /// Set in the same pass; bit-equal to [`Squares`].
        squares: Option<P> = Set, Element::F64, n.div_ceil(NORM_BLOCK);
        /// `[n]`.
        x: P = Read, Element::F32, n;
    }
    /// The dtype of the output.
    to: DType;
    /// Elements.
    n: usize;
}

op! {
    /// `out = x` as f32, for logits that are copied to the host.
    Widen {
        /// `[n]`.
        out: P = Set, Element::F32, n;
        /// `[n]`.
        x: P = Read, Element::Activation, n;
    }
    /// Elements.
    n: usize;
}

impl Zero {
    pub(super) fn cpu(mut self, cpu: &CpuKernels) {
        let out: &mut [u8] = write(&mut self.out, self.bytes);
        each(&cpu.pool, Rows::new(out, 1, NORM_BLOCK * 4), |_, (_, out)| out.fill(0));
    }

    pub(super) fn cuda(self, cuda: &CudaKernels) {
        cuda.zero(&self.out, self.bytes);
    }
}

impl Squares {
    pub(super) fn cpu(mut self, cpu: &CpuKernels) {
        let x: &[f32] = read(&self.x, self.n);
        let squares = write(&mut self.squares, self.n.div_ceil(NORM_BLOCK));
        each(&cpu.pool, Rows::new(squares, 1, 1), |_, (tile, sum)| {
            sum[0] = square_sum(&x[block(tile.start, NORM_BLOCK, x.len())]);
        });
    }

    pub(super) fn cuda(self, cuda: &CudaKernels) {
        let Squares { squares, x, n } = self;
        let squares = f64s(&squares, n.div_ceil(NORM_BLOCK));
        launch!(cuda.hzk_gradient_squares(squares, f32s(&x, n), n as i64));
    }
}

impl Round {
    pub(super) fn cpu(mut self, cpu: &CpuKernels) {
        let (n, x): (usize, &[f32]) = (self.n, read(&self.x, self.n));
        let squares = self.squares.as_mut().map(|squares| write(squares, n.div_ceil(NORM_BLOCK)));
        match self.to {
            DType::Bf16 => store(cpu, write(&mut self.out, n), squares, x, round_tile),
            DType::F32 => store(cpu, write(&mut self.out, n), squares, x, <[f32]>::copy_from_slice),
        }
    }

    pub(super) fn cuda(self, cuda: &CudaKernels) {
        let Round { out, squares, x, to, n } = self;
        let squares =
            squares.map_or(std::ptr::null_mut(), |squares| f64s(&squares, n.div_ceil(NORM_BLOCK)));
        let (x, count) = (f32s(&x, n), n as i64);
        match to {
            DType::Bf16 => launch!(cuda.hzk_gradient_store(bf16s(&out, n), squares, x, count)),
            DType::F32 => launch!(cuda.hzk_gradient_copy(f32s(&out, n), squares, x, count)),
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

/// Stores `x` block by block. With `squares`, squares each block while it is in the cache.
fn store<T: Number>(
    cpu: &CpuKernels,
    out: &mut [T],
    squares: Option<&mut [f64]>,
    x: &[f32],
    store_tile: fn(&mut [T], &[f32]),
) {
    let out = Rows::new(out, 1, NORM_BLOCK);
    let Some(squares) = squares else {
        return each(&cpu.pool, out, |_, (elements, out)| store_tile(out, &x[elements]));
    };
    each(&cpu.pool, (out, Rows::new(squares, 1, 1)), |_, ((elements, out), (_, sum))| {
        sum[0] = square_sum(&x[elements.clone()]);
        store_tile(out, &x[elements]);
    });
}

vectorised! {
    /// Σ x² in f64, in [`LANES`] lanes that are added in a fixed order.
    fn square_sum(x: &[f32]) -> f64 {
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
    /// Rounds to bf16 with [`master::round`].
    fn round_tile(out: &mut [u16], x: &[f32]) {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = master::round(x);
        }
    }
}
