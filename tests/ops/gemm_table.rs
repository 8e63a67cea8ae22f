//! The part of CUDA GEMMs that needs no device: column-major operands, and the autotune table.

use horizon::base::{DType, Status};
use horizon::ops::cuda::gemm::{ColumnMajor, Direction, Factor, Gemm};
use horizon::ops::cuda::table::{Attention, Choice, Key, Table};
use horizon::ops::cuda::workspace::HEAD_DIMS;
use horizon::ops::{Linear, Write};

const DIRECTIONS: [Direction; 3] = [Direction::Forward, Direction::BackwardInput, Direction::BackwardWeight];

/// `(n, k, m, x_stride, out_stride)`, mostly different, so that exchanged sizes are detected.
const SIZES: [(usize, usize, usize, usize, usize); 5] =
    [(1, 1, 1, 1, 1), (2, 3, 5, 3, 5), (7, 4, 3, 11, 9), (5, 1, 8, 6, 8), (1, 6, 2, 7, 13)];

fn gemm_of(direction: Direction, add: bool, size: (usize, usize, usize, usize, usize)) -> Gemm {
    let (n, k, m, x_stride, out_stride) = size;
    Gemm { direction, add, bias: false, n, k, m, x_stride, out_stride }
}

/// Element (row, column) of a matrix as BLAS addresses it.
fn at(matrix: &ColumnMajor, row: usize, column: usize) -> usize {
    assert!(row < matrix.rows && column < matrix.columns && matrix.rows <= matrix.stride);
    row + column * matrix.stride
}

/// The plain definition of a column-major GEMM.
fn column_major_gemm(gemm: &Gemm, a: &[i64], b: &[i64], out: &mut [i64]) {
    let operands = gemm.operands();
    let factor = |factor: &Factor, memory: &[i64], row, column| {
        let (row, column) = if factor.transpose { (column, row) } else { (row, column) };
        memory[at(&factor.matrix, row, column)]
    };
    let size = |factor: &Factor| {
        let (rows, columns) = (factor.matrix.rows, factor.matrix.columns);
        if factor.transpose { (columns, rows) } else { (rows, columns) }
    };
    let ((rows, depth), (depth_of_b, columns)) = (size(&operands.a), size(&operands.b));
    assert_eq!((depth, rows, columns), (depth_of_b, operands.out.rows, operands.out.columns));
    for row in 0..rows {
        for column in 0..columns {
            let sum: i64 =
                (0..depth).map(|t| factor(&operands.a, a, row, t) * factor(&operands.b, b, t, column)).sum();
            out[at(&operands.out, row, column)] += sum;
        }
    }
}

/// Distinct numbers, so that wrong elements are detected.
fn numbers(count: usize, start: i64) -> Vec<i64> {
    (0..count as i64).map(|i| (start + i) * (start + i) + i).collect()
}

#[test]
fn column_major_operands_give_the_row_major_matmuls() {
    for size in SIZES {
        let (n, k, m, x_stride, out_stride) = size;
        let (x, dout, weight) =
            (numbers(n * x_stride, 3), numbers(n * out_stride, 1001), numbers(m * k, 5003));
        for direction in DIRECTIONS {
            let gemm = gemm_of(direction, false, size);
            gemm.check().unwrap();
            // Row-major, by the formulas of `ops::linear`.
            let (a, b, mut truth) = match direction {
                Direction::Forward => (&weight, &x, vec![0; n * out_stride]),
                Direction::BackwardInput => (&weight, &dout, vec![0; n * x_stride]),
                Direction::BackwardWeight => (&x, &dout, vec![0; m * k]),
            };
            for i in 0..n {
                for j in 0..m {
                    for t in 0..k {
                        match direction {
                            Direction::Forward => {
                                truth[i * out_stride + j] += x[i * x_stride + t] * weight[j * k + t]
                            }
                            Direction::BackwardInput => {
                                truth[i * x_stride + t] += dout[i * out_stride + j] * weight[j * k + t];
                            }
                            Direction::BackwardWeight => {
                                truth[j * k + t] += dout[i * out_stride + j] * x[i * x_stride + t];
                            }
                        }
                    }
                }
            }
            let mut found = vec![0; truth.len()];
            column_major_gemm(&gemm, a, b, &mut found);
            assert_eq!(found, truth, "{gemm:?}");
        }
    }
}

#[test]
fn operands_have_the_types_and_lengths_of_the_ops() {
    for direction in DIRECTIONS {
        let operands = Gemm::of(direction, Write::Set, Linear::dense(6, 40, 24)).operands();
        assert_eq!((operands.a.matrix.dtype, operands.b.matrix.dtype), (DType::Bf16, DType::Bf16));
        let (out, bytes) = match direction {
            Direction::Forward => (DType::Bf16, [24 * 40 * 2, 6 * 40 * 2, 6 * 24 * 2]),
            Direction::BackwardInput => (DType::Bf16, [24 * 40 * 2, 6 * 24 * 2, 6 * 40 * 2]),
            Direction::BackwardWeight => (DType::F32, [6 * 40 * 2, 6 * 24 * 2, 24 * 40 * 4]),
        };
        assert_eq!(operands.out.dtype, out);
        assert_eq!([operands.a.matrix.bytes(), operands.b.matrix.bytes(), operands.out.bytes()], bytes);
    }
    // A strided matrix ends with the last column of its last row, and so may its span.
    let strided =
        Gemm::of(Direction::Forward, Write::Add, Linear { out_stride: 32, ..Linear::dense(6, 40, 24) });
    assert_eq!(strided.operands().out.bytes(), (5 * 32 + 24) * 2);
}

#[test]
fn impossible_sizes_are_refused() {
    let good = Gemm::of(Direction::Forward, Write::Set, Linear::dense(6, 40, 24));
    good.check().unwrap();
    let over = i32::MAX as usize + 1;
    for bad in [
        Gemm { n: 0, ..good },
        Gemm { k: 0, ..good },
        Gemm { m: 0, ..good },
        Gemm { x_stride: 39, ..good },
        Gemm { out_stride: 23, ..good },
        Gemm { n: over, ..good },
        Gemm { out_stride: over, ..good },
        Gemm { bias: true, direction: Direction::BackwardInput, ..good },
    ] {
        let error = bad.check().unwrap_err();
        assert_eq!(error.status(), Status::Internal);
        assert!(error.message().contains(&format!("{bad:?}")), "{error}");
    }
}

fn key(device: &str, library: usize, gemm: Gemm) -> Key {
    Key { device: device.into(), library, gemm }
}

fn choice(seed: u64) -> Choice {
    let algorithm = std::array::from_fn(|i| u64::MAX / (seed + i as u64 + 1));
    Choice { algorithm, workspace_bytes: seed as usize * 1024 }
}

/// A table with every kind of entry, and its keys.
fn table() -> (Table, Vec<Key>) {
    let mut table = Table::default();
    let mut keys = Vec::new();
    for device in ["NVIDIA H200", "NVIDIA \"quoted\" \\ device"] {
        for library in [130_101, 120_800] {
            for direction in DIRECTIONS {
                for add in [false, true] {
                    for size in SIZES {
                        let gemm = gemm_of(direction, add, size);
                        keys.push(key(device, library, gemm));
                        if direction == Direction::Forward {
                            keys.push(key(device, library, Gemm { bias: true, ..gemm }));
                        }
                    }
                }
            }
        }
    }
    for (seed, key) in keys.iter().enumerate() {
        assert_eq!(table.insert(key.clone(), choice(seed as u64)), None);
    }
    (table, keys)
}

#[test]
fn a_table_round_trips_through_json_in_any_insertion_order() {
    let (mut table, keys) = table();
    table.choose_attention("NVIDIA H200", 64, Attention::Wgmma);
    table.choose_attention("NVIDIA H200", 96, Attention::Mma);
    let text = table.to_json();
    let read = Table::from_json(&text, "a test").unwrap();
    assert_eq!(read, table);
    assert_eq!(read.iter().count(), keys.len());
    assert_eq!(read.attention("NVIDIA H200", 64), Attention::Wgmma);
    for (device, head_dim) in [("NVIDIA H200", 96), ("NVIDIA H200", 128), ("NVIDIA H100", 64)] {
        assert_eq!(read.attention(device, head_dim), Attention::Mma);
    }
    let mut reversed = Table::default();
    reversed.choose_attention("NVIDIA H200", 96, Attention::Mma);
    reversed.choose_attention("NVIDIA H200", 64, Attention::Wgmma);
    for (seed, key) in keys.iter().enumerate().rev() {
        reversed.insert(key.clone(), choice(seed as u64));
    }
    assert_eq!(reversed.to_json(), text);
    assert_eq!(Table::from_json(&Table::default().to_json(), "empty").unwrap(), Table::default());
}

#[test]
fn wgmma_is_preferred_where_nothing_was_chosen() {
    let mut table = Table::default();
    table.choose_attention("NVIDIA H200", 64, Attention::Mma);
    table.prefer_wgmma("NVIDIA H200");
    let chosen = HEAD_DIMS.map(|head_dim| table.attention("NVIDIA H200", head_dim));
    assert_eq!(chosen, [Attention::Mma, Attention::Mma, Attention::Wgmma, Attention::Mma]);
    assert_eq!(table.attention("NVIDIA H100", 128), Attention::Mma);
    assert_eq!(Table::from_json(&table.to_json(), "a test").unwrap(), table);
}

#[test]
fn a_choice_holds_for_its_exact_key() {
    let (table, keys) = table();
    for (seed, key) in keys.iter().enumerate() {
        assert_eq!(table.get(key), Some(choice(seed as u64)));
    }
    let known = key("NVIDIA H200", 130_101, gemm_of(Direction::Forward, true, SIZES[2]));
    assert!(table.get(&known).is_some());
    let p = known.gemm;
    for other in [
        Key { device: "NVIDIA H100".into(), ..known.clone() },
        Key { library: 130_102, ..known.clone() },
        Key { gemm: Gemm { n: p.n + 1, ..p }, ..known.clone() },
        Key { gemm: Gemm { k: p.k + 1, ..p }, ..known.clone() },
        Key { gemm: Gemm { m: p.m + 1, ..p }, ..known.clone() },
        Key { gemm: Gemm { x_stride: p.x_stride + 1, ..p }, ..known.clone() },
        Key { gemm: Gemm { out_stride: p.out_stride + 1, ..p }, ..known.clone() },
    ] {
        assert_eq!(table.get(&other), None, "{other:?}");
    }
}

/// JSON, and so the checksum, of GEMMs without bias does not depend on the field.
#[test]
fn json_omits_the_bias_of_gemms_without_one() {
    let mut table = Table::default();
    let without = key("NVIDIA H200", 130_101, gemm_of(Direction::Forward, true, SIZES[1]));
    let with = Key { gemm: Gemm { bias: true, ..without.gemm }, ..without.clone() };
    table.insert(without, choice(1));
    assert!(!table.to_json().contains("bias"));
    table.insert(with.clone(), choice(2));
    assert!(table.to_json().contains("\"bias\": true"));
    assert_eq!(Table::from_json(&table.to_json(), "a test").unwrap().get(&with), Some(choice(2)));
}

#[test]
fn an_invalid_table_is_refused_by_name() {
    let mut table = Table::default();
    table.insert(key("NVIDIA H200", 130_101, gemm_of(Direction::Forward, false, SIZES[1])), choice(1));
    table.choose_attention("NVIDIA H200", 128, Attention::Wgmma);
    let good = table.to_json();
    let digits = good.split('"').find(|text| text.len() == 128).unwrap();
    let from = good.find("\"choices\"").unwrap();
    let choices = &good[from + good[from..].find('[').unwrap() + 1..good.rfind(']').unwrap()];
    let twice = good.replacen(choices, &format!("{choices},{choices}"), 1);
    for (bad, word) in [
        (String::new(), "EOF"),
        (good.replace("\"format\": 3", "\"format\": 2"), "format 2"),
        (good.replace("\"format\": 3", "\"format\": 3, \"more\": 0"), "unknown field `more`"),
        (good.replace("\"head_dim\": 128", "\"head_dim\": 96"), "not 96"),
        (good.replace("\"wgmma\"", "\"tma\""), "unknown variant `tma`"),
        (good.replace(digits, &digits[1..]), "128 hexadecimal digits"),
        (good.replace(digits, &format!("+{}", &digits[1..])), "128 hexadecimal digits"),
        (good.replace("forward", "sideways"), "unknown variant `sideways`"),
        (good.replace("\"n\": 2", "\"n\": 0"), "invalid sizes"),
        (good.replace("\"n\": 2", "\"n\": -2"), "invalid value"),
        (twice, "choice 1 has the same key as an earlier choice"),
    ] {
        let error = Table::from_json(&bad, "gemm.json").unwrap_err();
        assert_eq!(error.status(), Status::BadFormat, "{error}");
        assert!(error.message().contains("gemm.json") && error.message().contains(word), "{word}: {error}");
    }
}

#[test]
fn a_table_of_another_device_or_library_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = Table::beside(&folder.path().join("here.json"));
    assert_eq!(path, folder.path().join("here.gemm.json"));
    let missing = Table::read(&path).unwrap_err();
    assert_eq!(missing.status(), Status::NotFound);
    assert!(missing.message().contains("here.gemm.json"), "{missing}");
    let (table, _) = table();
    std::fs::write(&path, table.to_json()).unwrap();
    assert_eq!(Table::read(&path).unwrap(), table);
    std::fs::write(&path, "{}").unwrap();
    let bad = Table::read(&path).unwrap_err();
    assert!(bad.status() == Status::BadFormat && bad.message().contains("here.gemm.json"), "{bad}");

    table.admit("here", "NVIDIA H200", 130_101).unwrap();
    for (device, library) in [("NVIDIA H100 PCIe", 130_101), ("NVIDIA H200", 130_200)] {
        let error = table.admit("here.gemm.json", device, library).unwrap_err();
        assert_eq!(error.status(), Status::InvalidArgument);
        for word in
            ["here.gemm.json", "NVIDIA H200 with cuBLASLt 120800", device, &library.to_string(), "calibrate"]
        {
            assert!(error.message().contains(word), "{word}: {error}");
        }
    }
    let error = Table::default().admit("nothing", "NVIDIA H200", 130_101).unwrap_err();
    assert!(error.message().contains("nothing is empty"), "{error}");
}
