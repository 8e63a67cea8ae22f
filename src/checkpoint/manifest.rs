//! The manifest of a checkpoint: step, model, options, and the sizes and checksums of its files.

use std::fmt;
use std::path::{Component, Path};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use xxhash_rust::xxh3::xxh3_64;

use crate::base::{DType, Error, Message, Position, Result, Status};
use crate::engine::StateSpan;
use crate::optim::Optimizer;

/// Name of the manifest's file.
pub const MANIFEST: &str = "manifest.json";

/// Version of the format; no other is read.
const VERSION: u32 = 1;

/// The contents of a manifest.
///
/// The file is `{"checksum": …, "manifest": …}`, where the checksum is that of the manifest's JSON
/// text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the format.
    version: u32,
    /// Version of Horizon that wrote it.
    pub horizon: String,
    /// Completed optimizer steps.
    pub step: u64,
    /// Tokens of these steps, including padding.
    pub tokens: u64,
    /// The model, under the names of `config.json`.
    pub model: Map<String, Value>,
    /// All other values that change bits, under the names of the command's options.
    pub numeric: Map<String, Value>,
    /// Position of the next window in the data; `None` if the caller does not use
    /// [`data`](crate::data).
    pub position: Option<Position>,
    /// Any value stored by the caller.
    pub note: Value,
    /// Dtype of the moments: `f32` or `bf16`.
    moments: String,
    /// State files, one per unit, in the order of units.
    pub units: Vec<UnitFile>,
    /// All other files except the manifest.
    pub files: Vec<StoredFile>,
}

/// The file of a unit's state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnitFile {
    /// Name in the checkpoint's folder.
    pub name: String,
    /// Size of the file.
    pub bytes: u64,
    /// Elements of each span, including padding.
    pub elements: u64,
    /// Checksum of each span.
    pub checksums: SpanChecksums,
}

/// The checksum of every span of a unit, by the span's name, in the order in which spans are saved.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SpanChecksums(Vec<(String, Checksum)>);

impl SpanChecksums {
    /// Returns the checksum of a span by its name.
    pub fn of(&self, name: &str) -> Option<Checksum> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, checksum)| *checksum)
    }

    /// Appends the checksum of the next span.
    pub fn push(&mut self, name: &str, checksum: Checksum) {
        self.0.push((name.to_owned(), checksum));
    }

    /// Returns true if each span of the optimizer's units has a checksum, and nothing else has one.
    fn matches(&self, optimizer: Optimizer) -> bool {
        let mut names = StateSpan::all(optimizer).map(|span| span.name(optimizer));
        self.0.len() == StateSpan::all(optimizer).count() && names.all(|name| self.of(name).is_some())
    }
}

impl Serialize for SpanChecksums {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, checksum)| (name, checksum)))
    }
}

impl<'de> Deserialize<'de> for SpanChecksums {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SpanChecksums, D::Error> {
        struct Entries;
        impl<'de> de::Visitor<'de> for Entries {
            type Value = SpanChecksums;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a checksum for every span")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<SpanChecksums, A::Error> {
                let mut checksums = SpanChecksums::default();
                while let Some(entry) = map.next_entry()? {
                    checksums.0.push(entry);
                }
                Ok(checksums)
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// A file other than a state file, such as `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredFile {
    /// Name in the checkpoint's folder.
    pub name: String,
    /// Size of the file.
    pub bytes: u64,
    /// Checksum of the whole file.
    pub checksum: Checksum,
}

/// XXH3 (64 bits); in JSON 16 hexadecimal digits, since many JSON readers have no 64-bit integers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checksum(pub u64);

impl Checksum {
    /// Computes the checksum of bytes.
    pub fn of(bytes: &[u8]) -> Checksum {
        Checksum(xxh3_64(bytes))
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Serialize for Checksum {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Checksum {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Checksum, D::Error> {
        let text = String::deserialize(deserializer)?;
        let checksum = u64::from_str_radix(&text, 16).map(Checksum).ok();
        let exact = checksum.filter(|checksum| checksum.to_string() == text);
        exact.ok_or_else(|| de::Error::custom(format!("{text:?} is not a checksum of 16 hexadecimal digits")))
    }
}

impl Manifest {
    /// Returns a manifest without files, model and options.
    pub fn begin(step: u64, tokens: u64, optimizer: Optimizer) -> Manifest {
        let Optimizer::AdamW { moments } = optimizer;
        Manifest {
            version: VERSION,
            horizon: env!("CARGO_PKG_VERSION").to_owned(),
            step,
            tokens,
            model: Map::new(),
            numeric: Map::new(),
            position: None,
            note: Value::Null,
            moments: moments.name().to_owned(),
            units: Vec::new(),
            files: Vec::new(),
        }
    }

    /// Returns the contents of the manifest's file.
    pub fn seal(&self) -> Result<Vec<u8>> {
        let text = serde_json::to_string_pretty(self).map_err(|error| Error::internal(error.to_string()))?;
        Ok(sealed(&text))
    }

    /// Parses the file written by [`Manifest::seal`].
    ///
    /// Errors: `BadFormat` if it is damaged, of another format or version, or inconsistent: a file
    /// outside the folder or listed twice, or a file size that does not match its elements.
    pub fn parse(file: &[u8]) -> Result<Manifest> {
        #[derive(Deserialize)]
        struct Sealed<'a> {
            #[serde(borrow)]
            manifest: &'a RawValue,
        }
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let json = |error: serde_json::Error| bad(format!("not the manifest of a checkpoint: {error}"));
        let Sealed { manifest } = serde_json::from_slice(file).map_err(json)?;
        let text = manifest.get();
        if sealed(text) != file {
            return Err(bad("the manifest is damaged: its checksum differs"));
        }
        let Versioned { version } = serde_json::from_str(text).map_err(json)?;
        if version != VERSION {
            return Err(bad(format!(
                "the checkpoint has version {version} of the format; this build reads version {VERSION}"
            )));
        }
        let manifest: Manifest = serde_json::from_str(text).map_err(json)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The optimizer whose state the checkpoint has.
    pub fn optimizer(&self) -> Optimizer {
        // `check` refuses other names.
        let moments = if self.moments == DType::Bf16.name() { DType::Bf16 } else { DType::F32 };
        Optimizer::AdamW { moments }
    }

    /// Returns a span's offset and size, in bytes, in its unit's file; `None` if they overflow.
    pub fn locate(&self, unit: &UnitFile, span: StateSpan) -> Option<(u64, u64)> {
        let mut start = 0u64;
        for one in StateSpan::all(self.optimizer()) {
            let bytes = unit.elements.checked_mul(one.element_bytes(self.optimizer()) as u64)?;
            if one == span {
                start.checked_add(bytes)?;
                return Some((start, bytes));
            }
            start = start.checked_add(bytes)?;
        }
        None
    }

    /// Returns name and size of every file except the manifest.
    pub fn all_files(&self) -> impl Iterator<Item = (&str, u64)> {
        let units = self.units.iter().map(|unit| (&unit.name[..], unit.bytes));
        units.chain(self.files.iter().map(|file| (&file.name[..], file.bytes)))
    }

    fn check(&self) -> Result<()> {
        if ![DType::F32, DType::Bf16].iter().any(|dtype| dtype.name() == self.moments) {
            return Err(bad(format!("moments are {:?}; they must be f32 or bf16", self.moments)));
        }
        let mut names = vec![MANIFEST];
        for (name, _) in self.all_files() {
            let mut components = Path::new(name).components();
            let (first, second) = (components.next(), components.next());
            if !matches!((first, second), (Some(Component::Normal(file)), None) if file == name) {
                return Err(bad(format!("{name:?} is not the name of a file in this folder")));
            }
            names.push(name);
        }
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(bad(format!("{:?} is listed twice", twice[0])));
        }
        for unit in &self.units {
            if !unit.checksums.matches(self.optimizer()) {
                let spans = StateSpan::all(self.optimizer()).map(|span| span.name(self.optimizer()));
                let spans = spans.collect::<Vec<_>>().join(", ");
                return Err(bad(format!("{} must have one checksum each for {spans}", unit.name)));
            }
            let last = StateSpan::all(self.optimizer()).last().expect("an optimizer has at least weights");
            let end = self.locate(unit, last).map(|(start, bytes)| start + bytes);
            if end != Some(unit.bytes) {
                return Err(bad(format!(
                    "{} has {} bytes, which does not match its {} elements",
                    unit.name, unit.bytes, unit.elements
                )));
            }
        }
        Ok(())
    }
}

/// Returns the contents of the file for a manifest's JSON.
fn sealed(manifest: &str) -> Vec<u8> {
    let checksum = Checksum::of(manifest.as_bytes());
    format!("{{\n\"checksum\": \"{checksum}\",\n\"manifest\": {manifest}\n}}\n").into_bytes()
}

fn bad(message: impl Into<Message>) -> Error {
    Error::new(Status::BadFormat, message)
}
