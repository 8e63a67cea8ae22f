//! What happens to a gradient before it leaves: norm, rounding, zeroing.

use horizon::base::{DType, master};
use support::reference::device::Device;
use support::reference::{Random, wide};

/// Around the lanes of a sum, and around the tiles of 2¹⁶ elements.
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
                let [sum, sum_of_bf16, sum_of_f32] = [0; 3].map(|_| device.painted(8));
                let [bf16, summed_bf16] = [0; 2].map(|_| device.painted(length * 2));
                let [f32, summed_f32, wide] = [0; 3].map(|_| device.painted(length * 4));
                let x = x_memory.span();
                k.sum_of_squares(sum.span(), x);
                k.round(bf16.span(), None, x, DType::Bf16);
                k.round(f32.span(), None, x, DType::F32);
                k.widen(wide.span(), stored_memory.span());
                k.round(summed_bf16.span(), Some(sum_of_bf16.span()), x, DType::Bf16);
                k.round(summed_f32.span(), Some(sum_of_f32.span()), x, DType::F32);
                vec![sum, bf16, f32, wide, sum_of_bf16, summed_bf16, sum_of_f32, summed_f32]
            });
            let name = device.name();
            let expected: f64 = wide(&x).iter().map(|x| x * x).sum();
            let sum = results[0].read_f64()[0];
            assert!((sum - expected).abs() <= 1e-12 * expected, "{name}, {length}: {sum} for {expected}");
            let rounded: Vec<u16> = x.iter().map(|&x| master::round(x)).collect();
            assert!(results[1].read_u16() == rounded, "{name}, {length}: rounding");
            assert!(results[2].read_f32() == x, "{name}, {length}: a copy");
            assert!(results[3].read_f32() == stored, "{name}, {length}: widening");
            for (sum_at, rounded_at, plain_at) in [(4, 5, 1), (6, 7, 2)] {
                let (bits, plain) = (results[sum_at].read_f64()[0].to_bits(), sum.to_bits());
                assert_eq!(bits, plain, "{name}, {length}: a sum with rounding has other bits");
                let same = results[rounded_at].bytes() == results[plain_at].bytes();
                assert!(same, "{name}, {length}: rounding with a sum has other bits");
            }
        }
    }
}

#[test]
fn a_norm_does_not_overflow_where_f32_would_and_keeps_nans() {
    for device in Device::all() {
        let (large, nan) = (device.f32s(&[1e30, 1e30]), device.f32s(&[1.0, f32::NAN]));
        let results = device.run(|k| {
            let (large_sum, nan_sum) = (device.painted(8), device.painted(8));
            k.sum_of_squares(large_sum.span(), large.span());
            k.sum_of_squares(nan_sum.span(), nan.span());
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
                let memory = device.painted(bytes);
                k.zero(memory.span());
                vec![memory]
            });
            assert!(results[0].bytes().iter().all(|&byte| byte == 0), "{}, {bytes} bytes", device.name());
        }
    }
}
