//! Conflicts between the paths of a command line.
//!
//! An output must not be, contain, or lie inside an input or another output: one would destroy the
//! other or become a part of it, at once or when the run is resumed. Paths are compared as the file
//! system sees them, by device and inode, so that links, `..`, hard links and bind mounts are no way
//! around.
//!
//! Three nestings are harmless and allowed. Outputs may lie inside a folder of checkpoints (`--out
//! run/final`), except under the names that checkpoints have there: nothing else in it is read or
//! removed. The checkpoint of `--resume` lies inside the folder to which the run writes. And a file
//! may be written into the folder of a model: nothing but a model's files is read there.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use horizon::base::format::shown;
use horizon::base::{Error, Result};
use horizon::data::DataPath;

use crate::place::{Place, Places};

/// Use of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// A file, or a folder with everything in it, is read.
    Read,
    /// The files of a model are read in a folder.
    Model,
    /// The checkpoint of `--resume` is read.
    Resumed,
    /// A file is written.
    File,
    /// A folder is replaced as a whole.
    Folder,
    /// Checkpoints are written to a folder.
    Checkpoints,
    /// Checkpoints were written to a folder, which `--resume` reads.
    EarlierCheckpoints,
}

impl Use {
    fn is_output(self) -> bool {
        matches!(self, Use::File | Use::Folder | Use::Checkpoints)
    }

    fn is_input(self) -> bool {
        matches!(self, Use::Read | Use::Model)
    }

    fn has_checkpoints(self) -> bool {
        matches!(self, Use::Checkpoints | Use::EarlierCheckpoints)
    }
}

/// A path of the command line.
struct Named {
    option: &'static str,
    path: PathBuf,
    place: Place,
    is_folder: bool,
    use_: Use,
}

/// The paths of a command line.
#[derive(Default)]
pub struct Paths {
    named: Vec<Named>,
    places: Places,
}

impl Paths {
    /// Adds a file or folder that is read.
    pub fn reads(self, option: &'static str, path: impl AsRef<Path>) -> Result<Paths> {
        self.with(option, path.as_ref(), Use::Read)
    }

    /// Adds the folder of a model that is read.
    pub fn reads_model(self, option: &'static str, folder: &str) -> Result<Paths> {
        self.with(option, Path::new(folder), Use::Model)
    }

    /// Adds data that is read.
    pub fn reads_data(self, option: &'static str, data: &[DataPath]) -> Result<Paths> {
        data.iter().try_fold(self, |paths, data| paths.reads(option, &data.path))
    }

    /// Adds the machine file, unless it is the name of a machine.
    pub fn reads_machine(self, name_or_file: &str) -> Result<Paths> {
        if Path::new(name_or_file).is_file() { self.reads("--machine", name_or_file) } else { Ok(self) }
    }

    /// Adds a file that is written, if one is.
    pub fn writes_file(self, option: &'static str, path: Option<impl AsRef<Path>>) -> Result<Paths> {
        match path {
            Some(path) => self.with(option, path.as_ref(), Use::File),
            None => Ok(self),
        }
    }

    /// Adds a folder that is replaced, if one is.
    pub fn writes_folder(self, option: &'static str, path: Option<&PathBuf>) -> Result<Paths> {
        match path {
            Some(path) => self.with(option, path, Use::Folder),
            None => Ok(self),
        }
    }

    /// Adds the folder of `--checkpoint-dir`, if it is given, and the checkpoint that is resumed, with
    /// the folder of checkpoints in which it lies.
    pub fn checkpoints(self, given: Option<&Path>, resumed: Option<&Path>) -> Result<Paths> {
        let mut paths = self;
        if let Some(folder) = given {
            paths = paths.with("--checkpoint-dir", folder, Use::Checkpoints)?;
        }
        let Some(resumed) = resumed else { return Ok(paths) };
        let folder = resumed.parent().unwrap_or(resumed);
        match given.map(|given| is_same(given, folder)).transpose()? {
            None => paths.with("--resume", folder, Use::Checkpoints),
            Some(false) => paths.with("--resume", folder, Use::EarlierCheckpoints),
            Some(true) => Ok(paths),
        }?
        .with("--resume", resumed, Use::Resumed)
    }

    fn with(mut self, option: &'static str, path: &Path, use_: Use) -> Result<Paths> {
        let facts = fs::metadata(path);
        // Devices and pipes are not files that one use takes from another.
        if facts.as_ref().is_ok_and(|facts| !facts.is_file() && !facts.is_dir()) {
            return Ok(self);
        }
        let place = self.places.of(path)?;
        let is_folder = facts.is_ok_and(|facts| facts.is_dir());
        self.named.push(Named { option, path: path.to_owned(), place, is_folder, use_ });
        Ok(self)
    }

    /// Refuses conflicts. To be called before anything is created or written.
    pub fn check(mut self) -> Result<()> {
        let named = std::mem::take(&mut self.named);
        let outputs: Vec<&Named> = named.iter().filter(|named| named.use_.is_output()).collect();
        for output in &outputs {
            for other in named.iter().filter(|other| !std::ptr::eq(*output, *other)) {
                if let Some((relation, why)) = self.conflict(output, other) {
                    return Err(refused(output, relation, other, &why));
                }
            }
        }
        for folder in named.iter().filter(|named| named.use_.is_input() && named.is_folder) {
            if let Some(output) = self.linked(&folder.path, &outputs) {
                return Err(refused(output, "is linked from", folder, &within(folder)));
            }
        }
        Ok(())
    }

    /// Returns how an output conflicts with another path, and the reason; `None` if it does not.
    fn conflict(&self, output: &Named, other: &Named) -> Option<(&'static str, String)> {
        if self.places.are_same(&output.place, &other.place) {
            let is_shared = output.use_ == Use::Checkpoints && other.use_.is_input();
            let why = if is_shared { within(other) } else { "one would overwrite the other".to_owned() };
            return Some(("is the same as", why));
        }
        if let Some(name) = self.places.inside(&output.place, &other.place) {
            let is_harmless = match other.use_ {
                Use::Model => output.use_ == Use::File,
                used => used.has_checkpoints() && !is_name_of_checkpoints(name),
            };
            return (!is_harmless).then(|| ("lies inside", within(other)));
        }
        let name = self.places.inside(&other.place, &output.place)?;
        let is_harmless = output.use_ == Use::Checkpoints
            && (other.use_ == Use::Resumed || !other.use_.is_input() && !is_name_of_checkpoints(name));
        let why = match output.use_ {
            Use::Checkpoints if other.use_.is_input() => {
                "checkpoints need a folder without inputs".to_owned()
            }
            _ => within(output),
        };
        (!is_harmless).then_some(("contains", why))
    }

    /// Returns an output to which, or into which, an input folder has a link, hard or symbolic.
    fn linked<'a>(&mut self, folder: &Path, outputs: &[&'a Named]) -> Option<&'a Named> {
        let id = |facts: &fs::Metadata| (facts.dev(), facts.ino());
        let has_other_names = |facts: &fs::Metadata| facts.is_file() && facts.nlink() > 1;
        let facts = |output: &Named| fs::metadata(&output.path).ok().filter(has_other_names);
        let files: HashSet<_> =
            outputs.iter().filter_map(|output| facts(output)).map(|facts| id(&facts)).collect();
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            // A folder that cannot be read is reported where it is read.
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let Ok(kind) = entry.file_type() else { continue };
                if kind.is_dir() {
                    folders.push(entry.path());
                    continue;
                }
                let is_listed = || entry.metadata().is_ok_and(|facts| files.contains(&id(&facts)));
                if !kind.is_symlink() && (files.is_empty() || !is_listed()) {
                    continue;
                }
                let Ok(place) = self.places.of(&entry.path()) else { continue };
                let leads = |output: &&Named| {
                    self.places.are_same(&place, &output.place)
                        || self.places.inside(&place, &output.place).is_some()
                };
                if let Some(output) = outputs.iter().copied().find(leads) {
                    return Some(output);
                }
            }
        }
        None
    }
}

fn refused(output: &Named, relation: &str, other: &Named, why: &str) -> Error {
    let show = |named: &Named| format!("{} {}", named.option, shown(&named.path));
    let or = match other.use_ {
        Use::Read if other.is_folder && relation != "is the same as" && relation != "contains" => {
            format!(", or name files with {} instead of the folder", other.option)
        }
        _ => String::new(),
    };
    Error::argument(format!(
        "{} {relation} {}: {why}; give another path with {}{or}",
        show(output),
        show(other),
        output.option
    ))
}

/// Why nothing may be written into a folder.
fn within(folder: &Named) -> String {
    match folder.use_ {
        Use::Read if folder.is_folder => "the next run would read it as a part of this input".to_owned(),
        Use::Read | Use::File => format!("{} is a file", folder.option),
        Use::Model => "the folder would no longer be the model alone".to_owned(),
        Use::Folder => format!("{} replaces the whole folder", folder.option),
        Use::Resumed => "a checkpoint stays as it is".to_owned(),
        Use::Checkpoints | Use::EarlierCheckpoints => {
            "the names latest, step-DIGITS and .* are reserved for checkpoints there".to_owned()
        }
    }
}

/// Returns true if two paths lead to the same place.
pub fn is_same(one: &Path, other: &Path) -> Result<bool> {
    let mut places = Places::default();
    let (one, other) = (places.of(one)?, places.of(other)?);
    Ok(places.are_same(&one, &other))
}

/// True for the names that checkpoints have in their folder.
fn is_name_of_checkpoints(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    let is_step = |digits: &str| !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    name == "latest" || name.starts_with('.') || name.strip_prefix("step-").is_some_and(is_step)
}
