//! Conflicts between the paths of a command line.
//!
//! An output must not be, contain, or lie inside an input or another output: one would destroy the
//! other, at once or when the run is resumed. Paths are compared as the file system sees them, by
//! device and inode, so that links, `..`, hard links and bind mounts are no way around.
//!
//! Two nestings are harmless and allowed. Outputs may lie inside a folder of checkpoints (`--out
//! run/final`), except under the names that checkpoints have there: nothing else in it is read or
//! removed. And the checkpoint of `--resume` lies inside the folder to which the run writes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use horizon::base::format::shown;
use horizon::base::{Error, Result};
use horizon::data::DataPath;

use crate::resume::absolute;

/// Links that are followed to find where a path leads, as in the kernel.
const LINKS_MAX: usize = 40;

/// Use of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// A file, or a folder with everything in it, is read.
    Read,
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

    fn has_checkpoints(self) -> bool {
        matches!(self, Use::Checkpoints | Use::EarlierCheckpoints)
    }
}

/// A path of the command line.
struct Named {
    option: &'static str,
    path: PathBuf,
    place: Place,
    use_: Use,
}

/// The paths of a command line.
#[derive(Default)]
pub struct Paths(Vec<Named>);

impl Paths {
    /// Adds a file or folder that is read.
    pub fn reads(self, option: &'static str, path: impl AsRef<Path>) -> Result<Paths> {
        self.with(option, path.as_ref(), Use::Read)
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
        // Devices and pipes are not files that one use takes from another.
        let is_special = fs::metadata(path).is_ok_and(|facts| !facts.is_file() && !facts.is_dir());
        if !is_special {
            self.0.push(Named { option, path: path.to_owned(), place: Place::of(path)?, use_ });
        }
        Ok(self)
    }

    /// Refuses conflicts. To be called before anything is created or written.
    pub fn check(&self) -> Result<()> {
        for (at, output) in self.0.iter().enumerate().filter(|(_, named)| named.use_.is_output()) {
            for (_, other) in self.0.iter().enumerate().filter(|(other, _)| *other != at) {
                let Some(conflict) = conflict(output, other) else { continue };
                let show = |named: &Named| format!("{} {}", named.option, shown(&named.path));
                return Err(Error::argument(format!(
                    "{} {conflict} {}: one would overwrite the other; give another path with {}",
                    show(output),
                    show(other),
                    output.option
                )));
            }
        }
        Ok(())
    }
}

/// Returns true if two paths lead to the same place.
pub fn is_same(one: &Path, other: &Path) -> Result<bool> {
    Ok(Place::of(one)?.keys[0] == Place::of(other)?.keys[0])
}

/// Returns how an output conflicts with another path; `None` if it does not.
fn conflict(output: &Named, other: &Named) -> Option<&'static str> {
    if output.place.keys[0] == other.place.keys[0] {
        return Some("is the same as");
    }
    if let Some(name) = output.place.inside(&other.place) {
        let is_harmless = other.use_.has_checkpoints() && !is_name_of_checkpoints(&name);
        return (!is_harmless).then_some("lies inside");
    }
    if let Some(name) = other.place.inside(&output.place) {
        let is_harmless = output.use_ == Use::Checkpoints
            && (other.use_ == Use::Resumed || other.use_ != Use::Read && !is_name_of_checkpoints(&name));
        return (!is_harmless).then_some("contains");
    }
    let is_linked = other.use_ == Use::Read && other.path.is_dir() && has_link(&other.path, &output.place);
    is_linked.then_some("is linked from")
}

/// True for the names that checkpoints have in their folder.
fn is_name_of_checkpoints(name: &Path) -> bool {
    let name = name.to_string_lossy();
    name == "latest" || name.starts_with('.') || name.starts_with("step-")
}

/// Returns true if an input folder has a link, hard or symbolic, to an existing output or into it.
fn has_link(folder: &Path, output: &Place) -> bool {
    let Ok(facts) = fs::metadata(&output.path) else { return false };
    let has_other_names = facts.is_file() && facts.nlink() > 1;
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        // A folder that cannot be read is reported where it is read.
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            let is_link = || match Place::of(&entry.path()) {
                Ok(place) => place.keys[0] == output.keys[0] || place.inside(output).is_some(),
                Err(_) => false,
            };
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_symlink() && is_link()
                || has_other_names && entry.metadata().is_ok_and(|entry| is_same_file(&entry, &facts))
            {
                return true;
            }
        }
    }
    false
}

fn is_same_file(one: &fs::Metadata, other: &fs::Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// A file or folder, which need not exist: the nearest folder above that exists, by device and
/// inode, and the path from there.
#[derive(PartialEq, Eq)]
struct Key {
    device: u64,
    inode: u64,
    rest: PathBuf,
}

impl Key {
    fn of(path: &Path) -> Result<Key> {
        let exists = |path: &&Path| fs::symlink_metadata(path).is_ok();
        let base = path.ancestors().find(exists).unwrap_or(Path::new("/"));
        let facts = fs::metadata(base)
            .or_else(|_| fs::symlink_metadata(base))
            .map_err(|error| Error::reading(base, &error))?;
        let rest = path.strip_prefix(base).expect("it is an ancestor").to_owned();
        Ok(Key { device: facts.dev(), inode: facts.ino(), rest })
    }
}

/// Where a path leads.
struct Place {
    /// The path without links and `..`.
    path: PathBuf,
    /// The keys of the path and of all folders above it, upwards.
    keys: Vec<Key>,
}

impl Place {
    fn of(path: &Path) -> Result<Place> {
        let path = resolved(path, &mut 0)?;
        let keys = path.ancestors().map(Key::of).collect::<Result<_>>()?;
        Ok(Place { path, keys })
    }

    /// Returns the name of the entry of `folder` in which this place lies; `None` if it lies
    /// elsewhere.
    fn inside(&self, folder: &Place) -> Option<PathBuf> {
        let above = self.keys.iter().skip(1).position(|key| *key == folder.keys[0])?;
        let entry = self.path.ancestors().nth(above)?;
        entry.file_name().map(PathBuf::from)
    }
}

/// The absolute path without links and `..`; it need not exist. A link that leads nowhere is
/// followed, too: a file written there is created where it points.
fn resolved(path: &Path, links: &mut usize) -> Result<PathBuf> {
    let mut place = PathBuf::new();
    for component in absolute(path)?.components() {
        if component == Component::ParentDir {
            place.pop();
            continue;
        }
        let parent = place.clone();
        place.push(component);
        if let Ok(whole) = fs::canonicalize(&place) {
            place = whole;
        } else if let Ok(target) = fs::read_link(&place)
            && *links < LINKS_MAX
        {
            *links += 1;
            place = resolved(&parent.join(target), links)?;
        }
    }
    Ok(place)
}
