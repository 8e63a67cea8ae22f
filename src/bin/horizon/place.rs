//! Places of paths: where they lead, as the file system sees it.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use horizon::base::Result;

use crate::resume::absolute;

/// Links that are followed to find where a path leads, as in the kernel.
const LINKS_MAX: usize = 40;
const ROOT: usize = 0;

/// A file or folder that exists.
struct Node {
    parent: usize,
    name: OsString,
    /// Device and inode.
    id: (u64, u64),
}

/// An entry of a folder.
#[derive(Clone)]
enum Entry {
    Node(usize),
    Link(PathBuf),
    Missing,
}

/// The file system along paths. Every name is looked up once.
pub struct Places {
    nodes: Vec<Node>,
    entries: HashMap<(usize, OsString), Entry>,
}

/// Where a path leads, without links and `..`; it need not exist.
pub struct Place {
    /// The file or folder, or the nearest folder above it that exists.
    node: usize,
    /// The names from there.
    rest: Vec<OsString>,
}

impl Default for Places {
    fn default() -> Self {
        let id = fs::metadata("/").map_or((0, 0), |facts| (facts.dev(), facts.ino()));
        let root = Node { parent: ROOT, name: OsString::new(), id };
        Places { nodes: vec![root], entries: HashMap::new() }
    }
}

impl Places {
    /// Follows a path as the kernel does. A link that leads nowhere is followed, too: a file written
    /// there is created where it points.
    pub fn of(&mut self, path: &Path) -> Result<Place> {
        let mut place = Place { node: ROOT, rest: Vec::new() };
        let mut ahead = reversed(&absolute(path)?);
        let mut links = 0;
        while let Some(name) = ahead.pop() {
            if name == ".." {
                if place.rest.pop().is_none() {
                    place.node = self.nodes[place.node].parent;
                }
                continue;
            }
            match if place.rest.is_empty() { self.entry(place.node, &name) } else { Entry::Missing } {
                Entry::Node(node) => place.node = node,
                Entry::Link(target) if links < LINKS_MAX => {
                    links += 1;
                    if target.is_absolute() {
                        place.node = ROOT;
                    }
                    ahead.extend(reversed(&target));
                }
                _ => place.rest.push(name),
            }
        }
        Ok(place)
    }

    fn entry(&mut self, folder: usize, name: &OsStr) -> Entry {
        let key = (folder, name.to_owned());
        if let Some(entry) = self.entries.get(&key) {
            return entry.clone();
        }
        let path = self.path(folder).join(name);
        let entry = match fs::symlink_metadata(&path) {
            Ok(facts) if facts.is_symlink() => fs::read_link(&path).map_or(Entry::Missing, Entry::Link),
            Ok(facts) => {
                let id = (facts.dev(), facts.ino());
                self.nodes.push(Node { parent: folder, name: name.to_owned(), id });
                Entry::Node(self.nodes.len() - 1)
            }
            Err(_) => Entry::Missing,
        };
        self.entries.insert(key, entry.clone());
        entry
    }

    fn path(&self, mut node: usize) -> PathBuf {
        let mut names = Vec::new();
        while node != ROOT {
            names.push(&self.nodes[node].name);
            node = self.nodes[node].parent;
        }
        Path::new("/").join(names.into_iter().rev().collect::<PathBuf>())
    }

    /// Returns true if two places are the same.
    pub fn are_same(&self, one: &Place, other: &Place) -> bool {
        self.nodes[one.node].id == self.nodes[other.node].id && one.rest == other.rest
    }

    /// Returns the name of the entry of `folder` in which a place lies; `None` if it lies elsewhere.
    pub fn inside<'a>(&'a self, place: &'a Place, folder: &Place) -> Option<&'a OsStr> {
        let is_folder = |node: usize| self.nodes[node].id == self.nodes[folder.node].id;
        if !folder.rest.is_empty() {
            let is_inside = is_folder(place.node) && place.rest.starts_with(&folder.rest);
            return place.rest.get(folder.rest.len()).filter(|_| is_inside).map(OsString::as_os_str);
        }
        let (mut name, mut node) = (place.rest.first(), place.node);
        while node != ROOT && !(name.is_some() && is_folder(node)) {
            name = Some(&self.nodes[node].name);
            node = self.nodes[node].parent;
        }
        name.filter(|_| is_folder(node)).map(OsString::as_os_str)
    }
}

/// The names and `..` of a path, the first one last.
fn reversed(path: &Path) -> Vec<OsString> {
    let is_step = |part: &Component| matches!(part, Component::Normal(_) | Component::ParentDir);
    path.components().rev().filter(is_step).map(|part| part.as_os_str().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn paths_are_followed_as_in_the_kernel() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        fs::create_dir_all(at("a/b")).unwrap();
        symlink("a/b", at("link")).unwrap();
        symlink("loop", at("loop")).unwrap();
        symlink(at("a/new"), at("dangling")).unwrap();
        let mut places = Places::default();
        for (one, other, is_same, name) in [
            ("a/b", "link", true, None),
            ("link/..", "a", true, None),
            ("none/../a/./b", "link/", true, None),
            ("dangling", "a/new", true, None),
            ("dangling/x/y", "a", false, Some("new")),
            ("dangling/x/y", "link/../new", false, Some("x")),
            ("a/b/c", "dangling", false, None),
            ("a/new2", "a/new", false, None),
            ("loop/x", "loop", false, Some("x")),
            ("/../../a", "/", false, Some("a")),
        ] {
            let [one, other] = [one, other].map(|path| places.of(&at(path)).unwrap());
            assert_eq!(places.are_same(&one, &other), is_same);
            assert_eq!(places.inside(&one, &other).map(OsStr::to_str), name.map(Some));
        }
    }

    #[test]
    fn every_name_is_looked_up_once() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/".repeat(100));
        fs::create_dir_all(&deep).unwrap();
        let mut places = Places::default();
        places.of(&deep).unwrap();
        let looked_up = places.entries.len();
        for number in 0..100 {
            places.of(&deep.join(number.to_string()).join("x/".repeat(100))).unwrap();
        }
        assert_eq!(places.entries.len(), looked_up + 100);
    }
}
