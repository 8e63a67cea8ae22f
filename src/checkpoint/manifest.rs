//! The manifest: what a checkpoint is of, and what its files must be.

use std::fmt;
use std::path::{Component, Path};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use xxhash_rust::xxh3::xxh3_64;

use crate::base::{DType, Error, Position, Result, Status};
use crate::engine::StateSpan;
use crate::optim::Optimizer;

/// Its name.
pub const MANIFEST: &str = "manifest.json";

/// The version of the format that is written, and the only one that is read.
const VERSION: u32 = 1;

/// All that a checkpoint says of itself.
///
/// The file is `{"checksum": …, "manifest": …}`: the checksum is of the bytes of the manifest's own JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The version of the format.
    version: u32,
    /// The version of the program that wrote it.
    pub horizon: String,
    /// Steps of AdamW that are done.
    pub step: u64,
    /// Tokens of those steps, padding counted.
    pub tokens: u64,
    /// The model, under the names of `config.json`.
    pub model: Map<String, Value>,
    /// Everything else that changes bits, under the names of the command's options.
    pub numeric: Map<String, Value>,
    /// Where the data goes on; nothing where whoever saves feeds the trainer by other means.
    pub position: Option<Position>,
    /// What whoever saves wants to find again.
    pub note: Value,
    /// How moments are stored: `f32` or `bf16`.
    moments: String,
    /// Files of states, by unit.
    pub units: Vec<UnitFile>,
    /// Every other file but the manifest.
    pub files: Vec<StoredFile>,
}

/// The file of a unit's state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnitFile {
    /// In the checkpoint's folder.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Elements of each span, padding counted.
    pub elements: u64,
    /// By span.
    pub checksums: SpanSums,
}

/// A checksum for every span of a unit, by name, in the order in which they are saved.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SpanSums(Vec<(String, Checksum)>);

impl SpanSums {
    /// The checksum of the span of a name.
    pub fn of(&self, name: &str) -> Option<Checksum> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, sum)| *sum)
    }

    /// Notes the checksum of the next span.
    pub fn push(&mut self, name: &str, sum: Checksum) {
        self.0.push((name.to_owned(), sum));
    }

    /// Checks that each span of an optimizer's units has a checksum, and that nothing else has one.
    fn are_of(&self, optimizer: Optimizer) -> bool {
        let mut names = StateSpan::all(optimizer).map(|span| span.name(optimizer));
        self.0.len() == StateSpan::all(optimizer).count() && names.all(|name| self.of(name).is_some())
    }
}

impl Serialize for SpanSums {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, sum)| (name, sum)))
    }
}

impl<'de> Deserialize<'de> for SpanSums {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SpanSums, D::Error> {
        struct Entries;
        impl<'de> de::Visitor<'de> for Entries {
            type Value = SpanSums;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a checksum for every span")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<SpanSums, A::Error> {
                let mut sums = SpanSums::default();
                while let Some(entry) = map.next_entry()? {
                    sums.0.push(entry);
                }
                Ok(sums)
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// A file that is kept whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredFile {
    /// In the checkpoint's folder.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Of all of it.
    pub checksum: Checksum,
}

/// XXH3 of 64 bits; in JSON 16 hexadecimal digits, since not every reader of JSON has whole numbers of 64 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checksum(pub u64);

impl Checksum {
    /// That of some bytes.
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
        let sum = u64::from_str_radix(&text, 16).map(Checksum).ok().filter(|sum| sum.to_string() == text);
        sum.ok_or_else(|| de::Error::custom(format!("{text:?} is no checksum of 16 hexadecimal digits")))
    }
}

impl Manifest {
    /// One without files, of which nothing is said yet but this.
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

    /// As it is written.
    pub fn seal(&self) -> Result<Vec<u8>> {
        let text = serde_json::to_string_pretty(self).map_err(|error| Error::internal(error.to_string()))?;
        Ok(sealed(&text))
    }

    /// Reads what [`Manifest::seal`] wrote.
    ///
    /// Errors: `BadFormat` where it is damaged, of another format or version, or says what cannot be: a file that is not
    /// in the folder or has two entries, lengths that do not add up.
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
        let json =
            |error: serde_json::Error| bad(format!("this is not the manifest of a checkpoint: {error}"));
        let Sealed { manifest } = serde_json::from_slice(file).map_err(json)?;
        let text = manifest.get();
        if sealed(text) != file {
            return Err(bad("it is not what was written: its checksum differs"));
        }
        let Versioned { version } = serde_json::from_str(text).map_err(json)?;
        if version != VERSION {
            return Err(bad(format!(
                "the checkpoint has version {version} of the format; this program reads version {VERSION}"
            )));
        }
        let manifest: Manifest = serde_json::from_str(text).map_err(json)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The optimizer whose state it holds.
    pub fn optimizer(&self) -> Optimizer {
        // `check` knows no other name.
        let moments = if self.moments == DType::Bf16.name() { DType::Bf16 } else { DType::F32 };
        Optimizer::AdamW { moments }
    }

    /// Where a span begins in its unit's file, and its length; nothing where no file is so long.
    pub fn place(&self, unit: &UnitFile, span: StateSpan) -> Option<(u64, u64)> {
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

    /// Every file but the manifest: its name and its length.
    pub fn all_files(&self) -> impl Iterator<Item = (&str, u64)> {
        let units = self.units.iter().map(|unit| (&unit.name[..], unit.bytes));
        units.chain(self.files.iter().map(|file| (&file.name[..], file.bytes)))
    }

    fn check(&self) -> Result<()> {
        if ![DType::F32, DType::Bf16].iter().any(|dtype| dtype.name() == self.moments) {
            return Err(bad(format!("moments are {:?}; they are f32 or bf16", self.moments)));
        }
        let mut names = vec![MANIFEST];
        for (name, _) in self.all_files() {
            let mut parts = Path::new(name).components();
            let plain =
                matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name);
            if !plain {
                return Err(bad(format!("{name:?} names no file of this folder")));
            }
            names.push(name);
        }
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(bad(format!("{:?} has two entries", twice[0])));
        }
        for unit in &self.units {
            if !unit.checksums.are_of(self.optimizer()) {
                let spans = StateSpan::all(self.optimizer()).map(|span| span.name(self.optimizer()));
                let spans = spans.collect::<Vec<_>>().join(", ");
                return Err(bad(format!("{} needs one checksum each for {spans}", unit.name)));
            }
            let last = StateSpan::all(self.optimizer()).last().expect("weights at least");
            let end = self.place(unit, last).map(|(start, bytes)| start + bytes);
            if end != Some(unit.bytes) {
                return Err(bad(format!(
                    "{} has {} bytes, which the state of {} elements does not fill",
                    unit.name, unit.bytes, unit.elements
                )));
            }
        }
        Ok(())
    }
}

/// The file around a manifest's JSON.
fn sealed(manifest: &str) -> Vec<u8> {
    let checksum = Checksum::of(manifest.as_bytes());
    format!("{{\n\"checksum\": \"{checksum}\",\n\"manifest\": {manifest}\n}}\n").into_bytes()
}

fn bad(message: impl Into<String>) -> Error {
    Error::new(Status::BadFormat, message)
}
