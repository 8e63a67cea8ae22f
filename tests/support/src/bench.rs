//! Options and figures of benches, and their exit status on a machine without a GPU.

use std::env;
use std::process::ExitCode;
use std::str::FromStr;

use horizon::base::Result;

use crate::fake_cuda::install_if_asked;

/// Returns the value of `--name VALUE`.
///
/// # Panics
/// If the option has no value.
pub fn option(name: &str) -> Option<String> {
    let mut arguments = env::args().skip_while(|argument| argument != name);
    arguments.next()?;
    Some(arguments.next().unwrap_or_else(|| panic!("{name} needs a value")))
}

/// Returns the value of `--name VALUE` as a number.
///
/// # Panics
/// If it is not a number.
pub fn number<N: FromStr>(name: &str) -> Option<N> {
    option(name)
        .map(|value| value.parse().unwrap_or_else(|_| panic!("{name} must be a number, not `{value}`")))
}

/// The median; the upper one of two middle values.
///
/// # Panics
/// If there are no values.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A figure rounded to this many decimal places.
pub fn rounded(value: f64, places: i32) -> f64 {
    let scale = 10f64.powi(places);
    (value * scale).round() / scale
}

/// Runs a bench that needs a GPU, or fake CUDA in a rehearsal (`HZ_FAKE_CUDA=1`). Prints an error;
/// it fails the program only in a rehearsal or if `HZ_REQUIRE_GPU` is 1.
pub fn on_gpu(run: impl FnOnce() -> Result<()>) -> ExitCode {
    let is_rehearsal = install_if_asked().is_some();
    let Err(error) = run() else { return ExitCode::SUCCESS };
    println!("nothing was measured: {error}");
    let is_required = env::var("HZ_REQUIRE_GPU").as_deref() == Ok("1");
    if is_rehearsal || is_required { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
