//! Values of options.

use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;

use clap::ValueEnum;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use horizon::base::format::escaped;
use horizon::base::{DType, Error, Front};
use horizon::data::{DataPath, Packing};
use horizon::engine::DeviceChoice;
use horizon::host::{Pinning, threads_max};
use horizon::schedule::Mode;
use horizon::train::LrShape;

/// Learning-rate schedules.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Shape {
    Constant,
    Linear,
    Cosine,
    Wsd,
}

impl From<Shape> for LrShape {
    fn from(shape: Shape) -> LrShape {
        match shape {
            Shape::Constant => LrShape::Constant,
            Shape::Linear => LrShape::Linear,
            Shape::Cosine => LrShape::Cosine,
            Shape::Wsd => LrShape::Wsd,
        }
    }
}

/// Packing of documents into windows.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Pack {
    Auto,
    Stream,
    Documents,
}

impl From<Pack> for Packing {
    fn from(pack: Pack) -> Packing {
        match pack {
            Pack::Auto => Packing::Auto,
            Pack::Stream => Packing::Stream,
            Pack::Documents => Packing::Documents,
        }
    }
}

/// Number formats.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Number {
    Bf16,
    F32,
}

impl From<Number> for DType {
    fn from(number: Number) -> DType {
        match number {
            Number::Bf16 => DType::Bf16,
            Number::F32 => DType::F32,
        }
    }
}

/// Parses one of a few names into its value.
fn named<T: Clone + Send + Sync + 'static>(
    values: &'static [(&'static str, T)],
) -> impl TypedValueParser<Value = T> {
    let value = |name: String| {
        let found = values.iter().find(|(known, _)| *known == name);
        found.expect("clap admits only these names").1.clone()
    };
    PossibleValuesParser::new(values.iter().map(|(name, _)| *name)).map(value)
}

pub fn mode() -> impl TypedValueParser<Value = Mode> {
    named(&[("exact", Mode::Exact), ("streamed", Mode::Streamed), ("compact", Mode::Compact)])
}

pub fn pinning() -> impl TypedValueParser<Value = Pinning> {
    named(&[("registered", Pinning::Registered), ("allocated", Pinning::Allocated)])
}

fn message(error: Error) -> String {
    escaped(&error.message_for(Front::Command), "")
}

pub fn data_path(text: &str) -> Result<DataPath, String> {
    DataPath::parse(text).map_err(message)
}

/// The path of a token file to write.
pub fn token_file(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.extension().is_some_and(|extension| extension == "bin") {
        Ok(path)
    } else {
        Err("the name of a token file must end in .bin, so that --data recognizes it".to_owned())
    }
}

pub fn device(text: &str) -> Result<DeviceChoice, String> {
    text.parse().map_err(message)
}

pub fn threads(text: &str) -> Result<usize, String> {
    match positive(text)? {
        threads if threads > threads_max() => Err(format!("it must be at most {}", threads_max())),
        threads => Ok(threads),
    }
}

pub fn positive(text: &str) -> Result<usize, String> {
    at_least(1, text)
}

/// A number of steps or documents.
pub fn positive_steps(text: &str) -> Result<u64, String> {
    at_least(1, text)
}

pub fn whole<T: FromStr + PartialOrd + Display + From<u8>>(text: &str) -> Result<T, String> {
    at_least(T::from(0), text)
}

pub fn number(text: &str) -> Result<f64, String> {
    text.parse().map_err(|_| "it must be a number, e.g. 2e-5".to_owned())
}

/// The number of buffers of a double buffer or a ring: one computes while another is copied.
pub fn at_least_two(text: &str) -> Result<usize, String> {
    at_least(2, text).map_err(|error| format!("{error} (double buffering)"))
}

fn at_least<T: FromStr + PartialOrd + Display>(least: T, text: &str) -> Result<T, String> {
    match text.parse() {
        Ok(number) if number < least => Err(format!("it must be at least {least}")),
        Ok(number) => Ok(number),
        Err(_) => Err(format!("it must be a whole number, {least} or more")),
    }
}
