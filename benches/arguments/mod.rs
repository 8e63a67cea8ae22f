//! Options of the benches of a GPU, and their end on a machine without one.

// Each bench uses its part of it.
#![allow(dead_code)]

use std::env;
use std::process::ExitCode;

use horizon::base::Result;
use support::fake_cuda::install_if_asked;

/// The value of `--name VALUE`.
///
/// # Panics
/// If the option has no value.
pub fn option(name: &str) -> Option<String> {
    let mut arguments = env::args().skip_while(|argument| argument != name);
    arguments.next()?;
    Some(arguments.next().unwrap_or_else(|| panic!("{name} needs a value")))
}

/// The same as a number.
///
/// # Panics
/// If it is none.
pub fn number(name: &str) -> Option<usize> {
    option(name).map(|value| value.parse().unwrap_or_else(|_| panic!("{name} {value}: not a number")))
}

/// Runs a bench that needs a GPU, or fake CUDA where `HZ_FAKE_CUDA=1` asks for a rehearsal. An error is printed; it is the exit
/// status in a rehearsal, and where `HZ_REQUIRE_GPU` is 1.
pub fn on_gpu(run: impl FnOnce() -> Result<()>) -> ExitCode {
    let is_rehearsal = install_if_asked().is_some();
    let Err(error) = run() else { return ExitCode::SUCCESS };
    println!("nothing was measured: {error}");
    let is_required = env::var("HZ_REQUIRE_GPU").as_deref() == Ok("1");
    if is_rehearsal || is_required { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
