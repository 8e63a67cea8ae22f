//! Squared norm, rounding, widening and zeroing of gradients.

use horizon::base::{DType, master};
use horizon::ops::{NORM_BLOCK, Round, Squares, Widen, Zero};
use support::reference::device::Device;
use support::reference::{Random, wide};
use support::spans;

/// Lengths around the lanes of a sum, and around norm blocks of 2¹⁶ elements.
const LENGTHS: &[usize] = &[0, 1, 2, 31, 32, 33, 63, 95, 127, 1000, 65_535, 65_536, 65_537, 200_001];

#[test]
fn norms_roundings_and_copies_agree() {
    for device in Device::all() {
        let mut random = Random::new(13);
        for &length in LENGTHS {
            let x = random.f32s(length, 3.0);
            let stored = device.stored(x.clone());
            let (x_memory, stored_memory) = (device.f32s(&x), device.activations(&stored));
            let results = device.run(|k| {
                let blocks = length.div_ceil(NORM_BLOCK);
                let [squares, squares_of_bf16, squares_of_f32] = [0; 3].map(|_| device.poisoned(blocks * 8));
                let [bf16, squared_bf16] = [0; 2].map(|_| device.poisoned(length * 2));
                let [f32, squared_f32, wide] = [0; 3].map(|_| device.poisoned(length * 4));
                let (x, n) = (x_memory.span(), length);
                spans::run(k, &Squares { squares: squares.span(), x, n }.into());
                spans::run(k, &Widen { out: wide.span(), x: stored_memory.span(), n }.into());
                for (to, plain, squared, squares) in [
                    (DType::Bf16, &bf16, &squared_bf16, &squares_of_bf16),
                    (DType::F32, &f32, &squared_f32, &squares_of_f32),
                ] {
                    spans::run(k, &Round { out: plain.span(), squares: None, x, to, n }.into());
                    let squares = Some(squares.span());
                    spans::run(k, &Round { out: squared.span(), squares, x, to, n }.into());
                }
                vec![squares, bf16, f32, wide, squares_of_bf16, squared_bf16, squares_of_f32, squared_f32]
            });
            let name = device.name();
            for (block, sum) in wide(&x).chunks(NORM_BLOCK).zip(results[0].read_f64()) {
                let expected: f64 = block.iter().map(|x| x * x).sum();
                assert!((sum - expected).abs() <= 1e-12 * expected, "{name}, {length}: {sum} for {expected}");
            }
            let rounded: Vec<u16> = x.iter().map(|&x| master::round(x)).collect();
            assert!(results[1].read_u16() == rounded, "{name}, {length}: rounding");
            assert!(results[2].read_f32() == x, "{name}, {length}: a copy");
            assert!(results[3].read_f32() == stored, "{name}, {length}: widening");
            for (squares_at, rounded_at, plain_at) in [(4, 5, 1), (6, 7, 2)] {
                let same = results[squares_at].bytes() == results[0].bytes();
                assert!(same, "{name}, {length}: squares computed while rounding differ");
                let same = results[rounded_at].bytes() == results[plain_at].bytes();
                assert!(same, "{name}, {length}: values rounded with squares differ");
            }
        }
    }
}

/// Gradients cut into chunks at norm blocks, and followed by padding.
#[test]
fn squares_do_not_depend_on_where_a_gradient_is_cut() {
    const BLOCKS: usize = 5;
    let (length, padding) = (4 * NORM_BLOCK + 1001, 23);
    for device in Device::all() {
        let mut x = Random::new(14).f32s(length, 3.0);
        x.resize(length + padding, 0.0);
        let x = device.f32s(&x);
        let cuts: [&[usize]; 5] = [&[], &[1], &[2], &[1, 3, 4], &[1, 2, 3, 4]];
        let results = device.run(|k| {
            let whole = device.poisoned(BLOCKS * 8);
            spans::run(k, &Squares { squares: whole.span(), x: x.span(), n: length }.into());
            let chunks = cuts.map(|cut| {
                let (squares, out) = (device.poisoned(BLOCKS * 8), device.poisoned((length + padding) * 2));
                let ends = cut.iter().map(|block| block * NORM_BLOCK).chain([length + padding]);
                let mut start = 0;
                for (number, end) in ends.enumerate() {
                    let n = end - start;
                    let (first, count) = (start / NORM_BLOCK, n.div_ceil(NORM_BLOCK));
                    let (x, squares) =
                        (x.span().subspan(start * 4, n * 4), squares.span().subspan(first * 8, count * 8));
                    // Both ops give the same squares.
                    if number % 2 == 0 {
                        spans::run(k, &Squares { squares, x, n }.into());
                    } else {
                        let (out, squares) = (out.span().subspan(start * 2, n * 2), Some(squares));
                        spans::run(k, &Round { out, squares, x, to: DType::Bf16, n }.into());
                    }
                    start = end;
                }
                squares
            });
            [whole].into_iter().chain(chunks).collect()
        });
        for (squares, cut) in results[1..].iter().zip(cuts) {
            assert!(squares.bytes() == results[0].bytes(), "{}: cut at blocks {cut:?}", device.name());
        }
    }
}

#[test]
fn a_squared_norm_does_not_overflow_where_f32_would_and_keeps_nans() {
    for device in Device::all() {
        let (large, nan) = (device.f32s(&[1e30, 1e30]), device.f32s(&[1.0, f32::NAN]));
        let results = device.run(|k| {
            let (large_sum, nan_sum) = (device.poisoned(8), device.poisoned(8));
            spans::run(k, &Squares { squares: large_sum.span(), x: large.span(), n: 2 }.into());
            spans::run(k, &Squares { squares: nan_sum.span(), x: nan.span(), n: 2 }.into());
            vec![large_sum, nan_sum]
        });
        let expected = 2.0 * f64::from(1e30f32).powi(2);
        assert_eq!(results[0].read_f64(), [expected], "{}", device.name());
        assert!(results[1].read_f64()[0].is_nan(), "{}", device.name());
    }
}

#[test]
fn zero_zeroes_every_byte() {
    for device in Device::all() {
        for bytes in [0, 1, 3, 255, 262_143, 262_144, 262_145, 600_000] {
            let results = device.run(|k| {
                let memory = device.poisoned(bytes);
                spans::run(k, &Zero { out: memory.span(), bytes }.into());
                vec![memory]
            });
            assert!(results[0].bytes().iter().all(|&byte| byte == 0), "{}, {bytes} bytes", device.name());
        }
    }
}
