//! Machine descriptions: throughputs, latencies and memory of a machine, with the source of every
//! figure.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::base::{DType, Error, Result, Status};
use crate::device::Lane;
use crate::host::input;
use crate::plan::Machine;

/// Largest file that is read; a description has a few kilobytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A machine, as `horizon calibrate` writes it and `--machine` reads it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// The name that `--machine` takes.
    pub name: String,
    /// One line for people: device, link, RAM.
    pub about: String,
    /// Words of the driver's name of the device, e.g. `H200`; `None` if any device will do, as for
    /// the CPU device.
    pub device: Option<String>,
    /// The activation dtype of the device.
    pub activation_dtype: ActivationDtype,
    /// Device memory available to an arena, in bytes; `None` if host memory is the only limit.
    pub device_bytes: Option<usize>,
    /// Host memory, in bytes.
    pub host_bytes: usize,
    /// True if device memory is host memory.
    pub shared: bool,
    /// The machine's rates.
    pub rates: Machine,
    /// The basis of each figure, by field of `rates`, `device_bytes` and `host_bytes`; of a list,
    /// that of its last entry. A missing field has an unknown basis. Files older than this map
    /// do not have it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub basis: BTreeMap<String, Basis>,
    /// The source of each figure in words, by the same fields.
    pub sources: BTreeMap<String, String>,
}

/// The basis of a machine's figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Basis {
    /// Measured by this project on such a machine, e.g. by `horizon calibrate`.
    Measured,
    /// Taken from a datasheet, or from measurements published by others.
    Published,
    /// Estimated, e.g. a fixed share of a published figure.
    Assumed,
}

impl Basis {
    /// The name in files and plans.
    pub fn name(self) -> &'static str {
        match self {
            Basis::Measured => "measured",
            Basis::Published => "published",
            Basis::Assumed => "assumed",
        }
    }
}

/// An activation dtype, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ActivationDtype {
    /// The dtype of the CPU device.
    F32,
    /// The dtype of CUDA devices.
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

/// The built-in machines, by name.
const SHIPPED: [(&str, &str); 9] = [
    ("cpu", include_str!("machines/cpu.json")),
    ("h200", include_str!("machines/h200.json")),
    ("gh200", include_str!("machines/gh200.json")),
    ("h100-sxm", include_str!("machines/h100-sxm.json")),
    ("h100-pcie", include_str!("machines/h100-pcie.json")),
    ("a100-pcie", include_str!("machines/a100-pcie.json")),
    ("rtx5090", include_str!("machines/rtx5090.json")),
    ("rtx4090", include_str!("machines/rtx4090.json")),
    ("rtx3090", include_str!("machines/rtx3090.json")),
];

/// Short names of the figures, for people.
const SHORT: [(&str, &str); 14] = [
    ("matrix_flop_per_s", "matmul"),
    ("attention_flop_per_s", "attention"),
    ("device_bytes_per_s", "device memory bandwidth"),
    ("up_bytes_per_s", "h2d"),
    ("down_bytes_per_s", "d2h"),
    ("host_bytes_per_s", "AdamW"),
    ("ram_bytes_per_s", "RAM bandwidth"),
    ("disk_bytes_per_s", "disk"),
    ("launch_s", "kernel launch"),
    ("latency_s", "latency"),
    ("handoff_s", "handoff"),
    ("common", "contention"),
    ("device_bytes", "device memory"),
    ("host_bytes", "RAM"),
];

impl Description {
    /// The names of the built-in machines.
    pub fn names() -> impl Iterator<Item = &'static str> {
        SHIPPED.iter().map(|(name, _)| *name)
    }

    /// A built-in machine by name, in any case.
    pub fn shipped(name: &str) -> Option<Description> {
        let (_, text) = SHIPPED.iter().find(|(known, _)| known.eq_ignore_ascii_case(name))?;
        Some(Description::parse(text).expect("a test reads every one"))
    }

    /// The built-in machine whose device has this hardware name.
    pub fn shipped_with(hardware: &str) -> Option<Description> {
        let shipped = Description::names().filter_map(Description::shipped);
        shipped.into_iter().find(|machine| machine.device.is_some() && machine.has(hardware))
    }

    /// Returns true if `hardware` contains the consecutive words of
    /// [`device`](Description::device). True if the machine names no device.
    pub fn has(&self, hardware: &str) -> bool {
        let (words, name) = (words(self.device.as_deref().unwrap_or("")), words(hardware));
        words.is_empty() || name.windows(words.len()).any(|some| some == words)
    }

    /// A built-in machine by name, or a machine from a file.
    ///
    /// Errors: an empty name (`InvalidArgument`); neither exists (`NotFound`); the file cannot be
    /// read, or is not a description (`BadFormat`, with field and line).
    pub fn open(name_or_file: &str) -> Result<Description> {
        if let Some(shipped) = Description::shipped(name_or_file) {
            return Ok(shipped);
        }
        if name_or_file.is_empty() {
            return Err(Error::argument("machine is empty"));
        }
        let path = Path::new(name_or_file);
        if !input::is_there(path) {
            let names: Vec<_> = Description::names().collect();
            return Err(Error::new(
                Status::NotFound,
                format!("machine {name_or_file} is neither a file nor one of {}", names.join(", ")),
            ));
        }
        let text = input::read_text(path, FILE_BYTES_MAX)?;
        Description::parse(&text).map_err(|error| error.within(path.display()))
    }

    /// Reads a machine from the text of a file.
    ///
    /// Errors: `BadFormat`.
    pub fn parse(text: &str) -> Result<Description> {
        let described: Description = serde_json::from_str(text).map_err(|error| {
            let of = field(text, &error).map_or(String::new(), |field| format!("{field}: "));
            let renamed = if error.to_string().starts_with("unknown field `storage`") {
                "; storage is now activation_dtype"
            } else {
                ""
            };
            Error::new(
                Status::BadFormat,
                format!(
                    "is not a machine description, as `horizon calibrate` writes one: {of}{error}{renamed}"
                ),
            )
        })?;
        described.rates.check()?;
        let known = |field: &String| SHORT.iter().any(|(name, _)| name == field);
        if let Some(unknown) = described.basis.keys().find(|field| !known(field)) {
            return Err(Error::new(
                Status::BadFormat,
                format!("basis has an entry for {unknown}, which is not a figure of a machine"),
            ));
        }
        Ok(described)
    }

    /// The text of a file.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("numbers and strings can be written") + "\n"
    }

    /// The figures that this machine has, with their values.
    fn figures(&self) -> Vec<(&'static str, &'static str, Value)> {
        let rates = serde_json::to_value(&self.rates).expect("numbers can be written");
        let value = |field: &str| match field {
            "device_bytes" => self.device_bytes.map(Value::from),
            "host_bytes" => Some(self.host_bytes.into()),
            _ => rates.get(field).cloned(),
        };
        SHORT.iter().filter_map(|&(field, short)| Some((field, short, value(field)?))).collect()
    }

    /// One line for people that says which figures are measured, published and assumed. The largest
    /// group is called `the rest`.
    pub fn basis_line(&self) -> String {
        if self.basis.is_empty() {
            return "the machine file does not say which are measured, published or assumed".to_owned();
        }
        let mut groups: BTreeMap<(bool, Option<Basis>), Vec<&str>> = BTreeMap::new();
        for (field, short, _) in self.figures() {
            let basis = self.basis.get(field).copied();
            groups.entry((basis.is_none(), basis)).or_default().push(short);
        }
        let largest = groups.values().map(Vec::len).max();
        let (mut named, mut rest) = (Vec::new(), None);
        for ((_, basis), figures) in &groups {
            let basis = basis.map_or("not stated", Basis::name);
            if rest.is_none() && Some(figures.len()) == largest {
                rest = Some(format!("{basis}: {}", if groups.len() == 1 { "all" } else { "the rest" }));
            } else {
                named.push(format!("{basis}: {}", figures.join(", ")));
            }
        }
        named.into_iter().chain(rest).collect::<Vec<_>>().join("; ")
    }

    /// Every figure by field, as JSON: its value, its basis (null if the file does not state it)
    /// and its source.
    pub fn figures_json(&self) -> Value {
        let figures = self.figures().into_iter().map(|(field, _, value)| {
            let (basis, source) = (self.basis.get(field), self.sources.get(field));
            (field.to_owned(), json!({ "value": value, "basis": basis, "source": source }))
        });
        Value::Object(figures.collect())
    }
}

/// Splits a device's name into words, so that `H200` does not match `GH200`.
fn words(name: &str) -> Vec<&str> {
    name.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect()
}

/// The field whose value has the wrong type: the last one before the position in the error.
fn field<'a>(text: &'a str, error: &serde_json::Error) -> Option<&'a str> {
    let line = text.lines().nth(error.line().checked_sub(1)?)?;
    let before = line.get(..error.column())?.rsplit_once("\":")?.0;
    let field = before.rsplit_once('"')?.1;
    error.to_string().starts_with("invalid").then_some(field)
}

impl Machine {
    /// Checks that every rate, share and latency is within bounds.
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
            // A step must take neither zero time nor more than 64 bits of nanoseconds.
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

/// (De)serialises a figure per lane as an object with the lanes' names.
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
    fn every_figure_of_every_machine_has_a_basis_and_a_source() {
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
            assert_eq!(machine.basis.keys().cloned().collect::<Vec<_>>(), figures, "{name}");
            for (field, basis) in &machine.basis {
                let says = machine.sources[field].contains("assumed");
                assert!(!says || *basis == Basis::Assumed || field == "matrix_flop_per_s", "{name}: {field}");
            }
        }
    }

    #[test]
    fn devices_are_identified_by_the_words_of_their_names() {
        for (hardware, machine) in [
            ("NVIDIA H200", Some("h200")),
            ("NVIDIA H200 NVL", Some("h200")),
            ("NVIDIA GH200 480GB", Some("gh200")),
            ("NVIDIA H100 80GB HBM3", Some("h100-sxm")),
            ("NVIDIA H100 PCIe", Some("h100-pcie")),
            ("NVIDIA A100-PCIE-40GB", Some("a100-pcie")),
            ("NVIDIA GeForce RTX 5090", Some("rtx5090")),
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
    fn a_file_without_bases_is_read_and_an_unknown_entry_is_refused() {
        let good = Description::shipped("rtx5090").unwrap();
        let old = Description { basis: BTreeMap::new(), ..good.clone() };
        assert!(!old.to_json().contains("\"basis\""), "{}", old.to_json());
        assert_eq!(Description::parse(&old.to_json()).unwrap(), old);
        assert!(old.basis_line().contains("does not say"), "{}", old.basis_line());
        assert_eq!(old.figures_json()["up_bytes_per_s"]["basis"], Value::Null);

        let refused = |from: &str, to: &str, words: &[&str]| {
            let text = good.to_json().replacen(from, to, 1);
            let error = Description::parse(&text).unwrap_err();
            assert_eq!(error.status(), Status::BadFormat);
            words.iter().for_each(|word| assert!(error.message().contains(word), "no {word:?} in: {error}"));
        };
        refused("\"ram_bytes_per_s\": \"", "\"rom_bytes_per_s\": \"", &["basis", "rom_bytes_per_s"]);
        refused("\"published\"", "\"rumoured\"", &["rumoured", "measured"]);
        refused("\"basis\"", "\"bases\"", &["bases"]);
        refused("\"activation_dtype\"", "\"storage\"", &["storage is now activation_dtype"]);
    }

    #[test]
    fn a_line_says_which_figures_are_measured() {
        let line = |name: &str| Description::shipped(name).unwrap().basis_line();
        assert_eq!(line("cpu"), "measured: all");
        assert_eq!(line("h200"), "measured: matmul, h2d, d2h; published: device memory; assumed: the rest");
        let mut partly = Description::shipped("rtx4090").unwrap();
        partly.basis.retain(|field, _| field == "up_bytes_per_s");
        assert_eq!(partly.basis_line(), "published: h2d; not stated: the rest");
    }

    #[test]
    fn figures_as_json_have_value_basis_and_source() {
        let machine = Description::shipped("rtx4090").unwrap();
        let figures = machine.figures_json();
        assert_eq!(figures["device_bytes"]["value"], machine.device_bytes.unwrap());
        assert_eq!(figures["device_bytes"]["basis"], "published");
        assert_eq!(figures["disk_bytes_per_s"]["basis"], "assumed");
        for (field, figure) in figures.as_object().unwrap() {
            assert_eq!(figure["source"], machine.sources[field].as_str(), "{field}");
        }
        assert_eq!(figures.as_object().unwrap().len(), machine.sources.len());
    }

    #[test]
    fn an_invalid_description_is_refused_by_field() {
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
