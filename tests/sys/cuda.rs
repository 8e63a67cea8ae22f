//! A build with CUDA kernels, on any machine: linked libraries, calls without a driver, error
//! messages.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::ptr::null_mut;

use horizon::base::{DType, Status};
use horizon::cuda_functions;
use horizon::ops::cuda::gemm::{Direction, Gemm};
use horizon::ops::{Linear, Write};
use horizon::sys::cuda::bindings as cu;
use horizon::sys::cuda::cublaslt::{CublasLt, Descriptors, Handle, Layout};
use horizon::sys::cuda::{
    DeviceMemory, Driver, Event, PinnedMemory, Stream, cublaslt_places, device_count, launched, memory_info,
    need_device, set_device, versions,
};

/// The number of devices. Without a device, prints that tests are skipped, or fails if a GPU is
/// required.
fn devices() -> usize {
    let count = device_count().unwrap();
    if count == 0 {
        let must = std::env::var_os("HZ_REQUIRE_GPU").is_some_and(|value| value == "1");
        assert!(!must, "HZ_REQUIRE_GPU=1, but {}", need_device(0).unwrap_err());
        println!("skipped what needs a GPU: {}", need_device(0).unwrap_err());
    }
    count
}

#[test]
fn no_cuda_library_is_linked_dynamically() {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    assert!(maps.contains("libc.so"), "the test does not see the loaded libraries");
    for library in ["libcudart", "libnvrtc", "libcublas.so"] {
        assert!(!maps.contains(library), "{library} is linked dynamically");
    }
    // Other tests of this process may have opened the driver and cuBLASLt, so linked libraries are
    // read from the dynamic section.
    let Some(needed) = needed_libraries(&std::env::current_exe().unwrap()) else {
        println!("skipped: this machine has no readelf");
        return;
    };
    assert!(needed.iter().any(|name| name.starts_with("libc.so")), "{needed:?}");
    assert!(!needed.iter().any(|name| name.contains("cuda") || name.contains("cublas")), "{needed:?}");
}

/// The NEEDED entries of a file's dynamic section; `None` without readelf.
fn needed_libraries(file: &Path) -> Option<Vec<String>> {
    let output = std::process::Command::new("readelf").arg("-dW").arg(file).output().ok()?;
    let text = String::from_utf8(output.stdout).unwrap();
    let needed = text.lines().filter(|line| line.contains("(NEEDED)"));
    let name = |line: &str| Some(line.split_once('[')?.1.trim_end_matches(']').to_string());
    Some(needed.filter_map(name).collect())
}

#[test]
fn every_launcher_of_the_header_is_linked() {
    macro_rules! addresses {
        ($(fn $name:ident($($argument:ident: $type:ty),*) -> $result:ty;)*) => {
            &[$((stringify!($name), cu::$name as *const () as usize)),*]
        };
    }
    let groups: [&[(&str, usize)]; 2] =
        [cuda_functions!(kernels, addresses), cuda_functions!(scratch, addresses)];
    let (listed, addresses): (BTreeSet<&str>, BTreeSet<usize>) = groups.concat().into_iter().unzip();
    let header = include_str!("../../csrc/kernels.h");
    let declared: BTreeSet<&str> = header
        .lines()
        .filter_map(|line| line.strip_prefix("int ").or_else(|| line.strip_prefix("size_t ")))
        .filter_map(|line| line.split_once('(').map(|(name, _)| name))
        .collect();
    assert_eq!(declared, listed, "the header and the bindings differ");
    assert_eq!(addresses.len(), listed.len(), "two launchers at one address");
}

#[test]
fn launchers_check_their_arguments_without_a_device() {
    let bad_width = unsafe { cu::hzk_bias_backward(null_mut(), null_mut(), null_mut(), 1, 7, null_mut()) };
    assert_eq!(bad_width, cu::HZK_ERROR_SHAPE);
    let misaligned = 8 as *mut cu::hzk_bf16;
    let bad_address = unsafe { cu::hzk_bias_backward(null_mut(), null_mut(), misaligned, 1, 8, null_mut()) };
    assert_eq!(bad_address, cu::HZK_ERROR_ALIGNMENT);
    let nothing = unsafe { cu::hzk_bias_backward(null_mut(), null_mut(), null_mut(), 0, 8, null_mut()) };
    launched(nothing, "hzk_bias_backward").unwrap();
    for (status, word) in [(bad_width, "limits"), (bad_address, "aligned")] {
        let error = launched(status, "hzk_bias_backward").unwrap_err();
        assert_eq!(error.status(), Status::Internal);
        assert!(error.message().contains("hzk_bias_backward") && error.message().contains(word), "{error}");
    }
    let error = launched(cu::cudaErrorNoDevice as i32, "hzk_bias_backward").unwrap_err();
    assert_eq!(error.status(), Status::DeviceUnavailable);
    assert!(error.message().contains("cannot launch hzk_bias_backward: cudaErrorNoDevice ("), "{error}");
}

#[test]
fn a_missing_device_is_refused_with_the_reason() {
    let versions = versions().unwrap();
    assert!(versions.runtime >= 12_000, "{versions:?}");
    let count = device_count().unwrap();
    for error in [need_device(count).unwrap_err(), set_device(count).unwrap_err()] {
        assert_eq!(error.status(), Status::DeviceUnavailable);
        let message = error.message();
        assert!(message.contains(&format!("cuda:{count} is not available")), "{message}");
        assert!(message.contains("device = DeviceChoice::Cpu runs without a GPU"), "{message}");
        if versions.driver == 0 {
            assert!(message.contains("there is no driver") && message.contains("cudaErr"), "{message}");
        }
    }
}

#[test]
fn without_a_device_every_call_returns_an_error() {
    if device_count().unwrap() > 0 {
        return println!("skipped: this machine has a device");
    }
    let errors = [
        Stream::new().map(drop).unwrap_err(),
        Event::new(true).map(drop).unwrap_err(),
        DeviceMemory::take(256).map(drop).unwrap_err(),
        PinnedMemory::take(256).map(drop).unwrap_err(),
        memory_info().map(drop).unwrap_err(),
        Driver::open().map(drop).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.status(), Status::DeviceUnavailable, "{error}");
        assert!(error.message().starts_with("cannot ") && error.message().contains(": cudaError"), "{error}");
    }
}

/// Reads the variables of a fake environment.
fn reader(pairs: &[(&'static str, PathBuf)]) -> impl Fn(&str) -> Option<OsString> {
    move |name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone().into_os_string())
}

fn library_in(folder: PathBuf, name: &str) -> PathBuf {
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(name), "not a library").unwrap();
    folder.join(name)
}

#[test]
fn cublaslt_is_searched_in_toolkits_and_python_packages() {
    let root = tempfile::tempdir().unwrap();
    let at = |path: &str| root.path().join(path);
    let name = "libcublasLt.so.13";
    let toolkit = library_in(at("toolkit/lib64"), name);
    let virtual_env = library_in(at("venv/lib/python3.11/site-packages/nvidia/cu13/lib"), name);
    let older = library_in(at("venv/lib/python3.11/site-packages/nvidia/cublas/lib"), "libcublasLt.so.12");
    let system = library_in(at("usr/lib/python3.12/dist-packages/nvidia/cu13/lib"), name);
    fs::create_dir_all(at("usr/bin")).unwrap();
    fs::write(at("usr/bin/python3"), "").unwrap();
    let pairs = [("CUDA_HOME", at("toolkit")), ("VIRTUAL_ENV", at("venv")), ("PATH", at("usr/bin"))];
    let inside = |places: Vec<PathBuf>| -> Vec<PathBuf> {
        places.into_iter().filter(|place| place.starts_with(root.path())).collect()
    };
    let places = cublaslt_places(reader(&pairs));
    assert_eq!(&places[..2], [PathBuf::from(name), PathBuf::from("libcublasLt.so.12")]);
    assert_eq!(inside(places), [toolkit, virtual_env, system, older], "best version first, then in order");
    assert!(inside(cublaslt_places(reader(&[]))).is_empty());

    // If a file or folder is named, nothing else is tried.
    let named = [("HZ_CUBLASLT", at("toolkit/lib64")), pairs[1].clone()];
    assert_eq!(
        cublaslt_places(reader(&named)),
        [at("toolkit/lib64").join(name), at("toolkit/lib64/libcublasLt.so.12")]
    );
    let named = [("HZ_CUBLASLT", at("my.so")), pairs[1].clone()];
    assert_eq!(cublaslt_places(reader(&named)), [at("my.so")]);
}

#[test]
fn a_missing_cublaslt_is_refused_with_every_tried_path() {
    let root = tempfile::tempdir().unwrap();
    let broken = library_in(root.path().join("broken"), "libcublasLt.so.13");
    // The last one loads, but is another library.
    let places = [root.path().join("absent.so"), broken.clone(), PathBuf::from("libm.so.6")];
    // SAFETY: the library that loads is the system's libm, and none of its functions is called.
    let error = unsafe { CublasLt::open_from(&places) }.unwrap_err();
    assert_eq!(error.status(), Status::DeviceUnavailable);
    let message = error.message();
    for part in [
        "cuBLASLt, which CUDA devices need for GEMMs, was not found",
        "absent.so: ",
        "broken/libcublasLt.so.13: ",
        "libm.so.6: it has no cublasLtCreate",
        "HZ_CUBLASLT",
    ] {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

#[test]
fn cublaslt_opens_and_describes_gemms_without_a_device() {
    let library = match CublasLt::open() {
        Ok(library) => library,
        Err(error) => {
            assert_eq!(devices(), 0, "{error}");
            return println!("skipped: {error}");
        }
    };
    assert!(library.version() >= 120_000, "{library:?}");
    for direction in [Direction::Forward, Direction::BackwardInput, Direction::BackwardWeight] {
        let operands = Gemm::of(direction, Write::Set, Linear::dense(6, 40, 24)).operands();
        let layout = |matrix: horizon::ops::cuda::gemm::ColumnMajor| Layout {
            dtype: matrix.dtype,
            rows: matrix.rows,
            columns: matrix.columns,
            stride: matrix.stride,
        };
        let (a, b) = (operands.a, operands.b);
        let a = (layout(a.matrix), a.transpose);
        let (b, bias) = ((layout(b.matrix), b.transpose), direction == Direction::Forward);
        Descriptors::new(&library, a, b, layout(operands.out), bias).unwrap();
    }
    let none = Layout { dtype: DType::F32, rows: 0, columns: 0, stride: 0 };
    if let Err(error) = Descriptors::new(&library, (none, false), (none, false), none, false) {
        assert!(error.message().contains("CUBLAS_STATUS_"), "{error}");
    }
    if devices() == 0 {
        let error = Handle::new(library).unwrap_err();
        assert_eq!(error.status(), Status::DeviceFailed);
        assert!(error.message().starts_with("cannot start cuBLASLt: CUBLAS_STATUS_"), "{error}");
    }
}
