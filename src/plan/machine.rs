//! Machines as files: what one can do, how much memory it has, and where every figure is from.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::base::{DType, Error, Result, Status};
use crate::device::Lane;
use crate::plan::Machine;

/// A machine, as `horizon calibrate` writes it and `--machine` reads it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// What `--machine` calls it.
    pub name: String,
    /// What it is, for people.
    pub about: String,
    /// Words in the name that the driver gives the device, e.g. `H200`; nothing where any device will do, as for the CPU.
    pub device: Option<String>,
    /// The device's type of activations.
    pub activation_dtype: ActivationDtype,
    /// Device memory that an arena may take; none where it is bounded by host memory alone.
    pub device_bytes: Option<usize>,
    /// Host memory.
    pub host_bytes: usize,
    /// Whether device memory is host memory, too.
    pub shared: bool,
    /// What it can do.
    pub rates: Machine,
    /// By field of `rates`, and of memory: who says so.
    pub sources: BTreeMap<String, String>,
}

/// A type of activations, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ActivationDtype {
    /// As the CPU device has them.
    F32,
    /// As CUDA has them.
    Bf16,
}

impl From<ActivationDtype> for DType {
    fn from(activation_dtype: ActivationDtype) -> DType {
        match activation_dtype {
            ActivationDtype::F32 => DType::F32,
            ActivationDtype::Bf16 => DType::Bf16,
        }
    }
}

/// The machines that are described here, by name.
const SHIPPED: [(&str, &str); 7] = [
    ("cpu", include_str!("machines/cpu.json")),
    ("h200", include_str!("machines/h200.json")),
    ("gh200", include_str!("machines/gh200.json")),
    ("h100-pcie", include_str!("machines/h100-pcie.json")),
    ("a100-pcie", include_str!("machines/a100-pcie.json")),
    ("rtx4090", include_str!("machines/rtx4090.json")),
    ("rtx3090", include_str!("machines/rtx3090.json")),
];

impl Description {
    /// Names of the machines that are described in the program.
    pub fn names() -> impl Iterator<Item = &'static str> {
        SHIPPED.iter().map(|(name, _)| *name)
    }

    /// One of those; case does not matter.
    pub fn shipped(name: &str) -> Option<Description> {
        let (_, text) = SHIPPED.iter().find(|(known, _)| known.eq_ignore_ascii_case(name))?;
        Some(serde_json::from_str(text).expect("a test reads every one"))
    }

    /// The machine described in the program whose device has this hardware name.
    pub fn shipped_with(hardware: &str) -> Option<Description> {
        let shipped = Description::names().filter_map(Description::shipped);
        shipped.into_iter().find(|machine| machine.device.is_some() && machine.has(hardware))
    }

    /// Whether a device of this hardware name is the machine's: the words of [`device`](Description::device) stand in it
    /// in a row. True where the machine names no device.
    pub fn has(&self, hardware: &str) -> bool {
        let (words, name) = (words(self.device.as_deref().unwrap_or("")), words(hardware));
        words.is_empty() || name.windows(words.len()).any(|some| some == words)
    }

    /// A machine by its name, or from a file.
    ///
    /// Errors: neither (`NotFound`); the file cannot be read, or is none (`BadFormat`, with field and line).
    pub fn open(name_or_file: &str) -> Result<Description> {
        if let Some(shipped) = Description::shipped(name_or_file) {
            return Ok(shipped);
        }
        let path = Path::new(name_or_file);
        if !path.is_file() {
            let names: Vec<_> = Description::names().collect();
            return Err(Error::new(
                Status::NotFound,
                format!("machine {name_or_file} is neither a file nor one of {}", names.join(", ")),
            ));
        }
        let text = fs::read_to_string(path).map_err(|error| Error::reading(path, &error))?;
        Description::parse(&text).map_err(|error| error.within(path.display()))
    }

    /// A machine from the text of a file.
    ///
    /// Errors: `BadFormat`.
    pub fn parse(text: &str) -> Result<Description> {
        let described: Description = serde_json::from_str(text).map_err(|error| {
            let of = field(text, &error).map_or(String::new(), |field| format!("{field}: "));
            Error::new(Status::BadFormat, format!("is no description of a machine: {of}{error}"))
        })?;
        described.rates.check()?;
        Ok(described)
    }

    /// The text of a file.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("numbers and strings can be written") + "\n"
    }
}

/// The words of a device's name. `GH200` is one, and another than `H200`.
fn words(name: &str) -> Vec<&str> {
    name.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect()
}

/// The field whose value has the wrong type: the last one before the place that an error names.
fn field<'a>(text: &'a str, error: &serde_json::Error) -> Option<&'a str> {
    let line = text.lines().nth(error.line().checked_sub(1)?)?;
    let before = line.get(..error.column())?.rsplit_once("\":")?.0;
    let field = before.rsplit_once('"')?.1;
    error.to_string().starts_with("invalid").then_some(field)
}

impl Machine {
    /// Whether every figure is one that a step's time can be reckoned with.
    ///
    /// Errors: `BadFormat`, naming the field.
    pub fn check(&self) -> Result<()> {
        let least = |rates: &[f64]| rates.iter().copied().fold(f64::INFINITY, f64::min);
        let rates = [
            ("matrix_flop_per_s", least(&self.matrix_flop_per_s)),
            ("attention_flop_per_s", least(&self.attention_flop_per_s)),
            ("device_bytes_per_s", self.device_bytes_per_s),
            ("up_bytes_per_s", self.up_bytes_per_s),
            ("down_bytes_per_s", self.down_bytes_per_s),
            ("host_bytes_per_s", least(&self.host_bytes_per_s)),
            ("ram_bytes_per_s", self.ram_bytes_per_s),
            ("disk_bytes_per_s", self.disk_bytes_per_s),
        ];
        for (name, rate) in rates {
            // So that no step takes no time, or more than can be counted.
            if !(1.0..=1e18).contains(&rate) {
                return Err(Error::new(
                    Status::BadFormat,
                    format!("{name} is {rate:?}; it must be 1 … 1e18 a second"),
                ));
            }
        }
        for common in &self.common {
            let outside = Lane::ALL.iter().find(|lane| !(0.0..=1.0).contains(&common.used[lane.at()]));
            if let Some(lane) = outside {
                let (name, share) = (&common.name, common.used[lane.at()]);
                return Err(Error::new(
                    Status::BadFormat,
                    format!("share of common {name} is {share:?} for {lane}; it must be 0 … 1"),
                ));
            }
        }
        let latencies = Lane::ALL.map(|lane| (format!("latency_s of {lane}"), self.latency_s[lane.at()]));
        for (name, latency) in latencies
            .into_iter()
            .chain([("launch_s".to_owned(), self.launch_s), ("handoff_s".to_owned(), self.handoff_s)])
        {
            if !(0.0..=1.0).contains(&latency) {
                return Err(Error::new(
                    Status::BadFormat,
                    format!("{name} is {latency:?}; it must be 0 … 1 second"),
                ));
            }
        }
        Ok(())
    }
}

/// A figure for each lane, as an object by the lanes' names.
pub(super) mod by_lane {
    use std::collections::BTreeMap;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::device::Lane;

    pub fn serialize<S: Serializer>(figures: &[f64; Lane::COUNT], to: S) -> Result<S::Ok, S::Error> {
        let named: BTreeMap<&str, f64> =
            Lane::ALL.iter().map(|lane| (lane.name(), figures[lane.at()])).collect();
        named.serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<[f64; Lane::COUNT], D::Error> {
        let mut named = BTreeMap::<String, f64>::deserialize(from)?;
        let mut figures = [0.0; Lane::COUNT];
        for lane in Lane::ALL {
            let figure = named.remove(lane.name());
            figures[lane.at()] =
                figure.ok_or_else(|| D::Error::custom(format!("no figure for lane {lane}")))?;
        }
        match named.keys().next() {
            Some(unknown) => Err(D::Error::custom(format!("there is no lane {unknown}"))),
            None => Ok(figures),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn every_figure_of_every_machine_has_a_source() {
        for name in Description::names() {
            let machine = Description::shipped(name).unwrap();
            assert_eq!(machine.name, name);
            machine.rates.check().unwrap();
            let rates = serde_json::to_value(&machine.rates).unwrap();
            let Value::Object(rates) = rates else { panic!("{name}: rates are an object") };
            let mut figures: Vec<String> = rates.keys().cloned().chain(["host_bytes".to_owned()]).collect();
            figures.extend(machine.device_bytes.map(|_| "device_bytes".to_owned()));
            figures.sort();
            let sources: Vec<String> = machine.sources.keys().cloned().collect();
            assert_eq!(sources, figures, "{name}");
            assert!(machine.sources.values().all(|source| source.len() > 5), "{name}");
        }
    }

    #[test]
    fn devices_are_told_apart_by_the_words_of_their_names() {
        for (hardware, machine) in [
            ("NVIDIA H200", Some("h200")),
            ("NVIDIA H200 NVL", Some("h200")),
            ("NVIDIA GH200 480GB", Some("gh200")),
            ("NVIDIA H100 80GB HBM3", Some("h100-pcie")),
            ("NVIDIA A100-PCIE-40GB", Some("a100-pcie")),
            ("NVIDIA GeForce RTX 4090", Some("rtx4090")),
            ("NVIDIA GeForce RTX 3090 Ti", Some("rtx3090")),
            ("NVIDIA L40S", None),
            ("", None),
        ] {
            let found = Description::shipped_with(hardware).map(|machine| machine.name);
            assert_eq!(found.as_deref(), machine, "{hardware}");
        }
        assert!(Description::shipped("cpu").unwrap().has("anything"));
        // As `horizon calibrate` names it: the whole name.
        let measured =
            Description { device: Some("NVIDIA H200".into()), ..Description::shipped("h200").unwrap() };
        assert!(measured.has("NVIDIA H200") && !measured.has("NVIDIA H20") && !measured.has("H200"));
    }

    #[test]
    fn a_description_goes_out_and_comes_back() {
        for name in Description::names() {
            let machine = Description::shipped(name).unwrap();
            assert_eq!(Description::parse(&machine.to_json()).unwrap(), machine);
        }
    }

    #[test]
    fn what_is_no_description_is_refused_by_field() {
        let good = Description::shipped("h200").unwrap();
        let text = |rates: Machine| Description { rates, ..good.clone() }.to_json();
        let broken = text(Machine { up_bytes_per_s: 0.0, ..good.rates.clone() });
        let error = Description::parse(&broken).unwrap_err();
        assert!(error.message().contains("up_bytes_per_s"), "{error}");
        let refused = |rates: Machine, words: &[&str]| {
            let error = Description::parse(&text(rates)).unwrap_err();
            words.iter().for_each(|word| assert!(error.message().contains(word), "no {word:?} in: {error}"));
        };
        refused(
            Machine { disk_bytes_per_s: 1e-300, ..good.rates.clone() },
            &["disk_bytes_per_s is 1e-300", "1 … 1e18"],
        );
        refused(Machine { launch_s: 1e300, ..good.rates.clone() }, &["launch_s is 1e300", "1 second"]);
        let mut greedy = good.rates.clone();
        greedy.common[0].used[Lane::H2d.at()] = 1e9;
        refused(greedy, &["share of common link", "1000000000.0 for h2d"]);
        let typed = good.to_json().replace("\"shared\": false", "\"shared\": \"no\"");
        let error = Description::parse(&typed).unwrap_err();
        assert!(error.message().contains(": shared: invalid type"), "{error}");
        let unknown = good.to_json().replace("\"shared\"", "\"sharde\"");
        assert_eq!(Description::parse(&unknown).unwrap_err().status(), Status::BadFormat);
        assert_eq!(Description::open("H200").unwrap(), good);
        let error = Description::open("no-such-machine").unwrap_err();
        assert!(error.status() == Status::NotFound && error.message().contains("rtx3090"), "{error}");
    }
}
