//! Reads text files, alone or below a folder.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::base::{Error, Result, Status};

/// A file with a zero byte in its first 8000 bytes is binary, as in git.
const BINARY_PROBE: usize = 8000;

/// Calls `take` with the path and text of a file, or of every text file below a folder, sorted by
/// path. Below a folder, hidden entries, links, folders named `target` and binary files are
/// skipped. Errors: `path` is a binary file, or a folder without files.
pub fn read_texts(path: &Path, mut take: impl FnMut(&Path, Vec<u8>) -> Result<()>) -> Result<()> {
    let metadata = fs::metadata(path).map_err(|error| Error::reading(path, &error))?;
    if !metadata.is_dir() {
        let document = read_text(path)?.ok_or_else(|| {
            let message = format!(
                "{} is binary, not text: it has a zero byte in its first {BINARY_PROBE} bytes",
                path.display()
            );
            Error::new(Status::BadFormat, message)
        })?;
        return take(path, document);
    }
    let files = files_below(path)?;
    if files.is_empty() {
        return Err(Error::new(
            Status::NotFound,
            format!(
                "{} contains no files to read; hidden files, links and folders named target are skipped",
                path.display()
            ),
        ));
    }
    for file in files {
        if let Some(document) = read_text(&file)? {
            take(&file, document)?;
        }
    }
    Ok(())
}

/// Returns the contents of a file; `None` if it is binary.
fn read_text(path: &Path) -> Result<Option<Vec<u8>>> {
    let mut file = fs::File::open(path).map_err(|error| Error::reading(path, &error))?;
    let mut bytes = Vec::new();
    let mut read = |bytes: &mut Vec<u8>, most: u64| {
        file.by_ref().take(most).read_to_end(bytes).map_err(|error| Error::reading(path, &error))
    };
    read(&mut bytes, BINARY_PROBE as u64)?;
    if bytes.contains(&0) {
        return Ok(None);
    }
    read(&mut bytes, u64::MAX)?;
    Ok(Some(bytes))
}

/// Returns the regular files below a folder, sorted by path.
fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(|error| Error::reading(&folder, &error))? {
            let entry = entry.map_err(|error| Error::reading(&folder, &error))?;
            let kind = entry.file_type().map_err(|error| Error::reading(&entry.path(), &error))?;
            let name = entry.file_name();
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            if kind.is_dir() && name != "target" {
                folders.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_its_text_files_by_path() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        };
        put("b.txt", b"bee");
        put("a/z.txt", b"zed");
        put("a/empty.txt", b"");
        put("c.bin", b"sea\0");
        put(".git/config", b"hidden");
        put(".secret", b"hidden");
        put("target/debug/out.txt", b"built");
        put("a/target", b"a file may be called so");
        std::os::unix::fs::symlink(dir.path(), dir.path().join("loop")).unwrap();
        let mut found = Vec::new();
        read_texts(dir.path(), |path, text| {
            let name = path.strip_prefix(dir.path()).unwrap().to_str().unwrap().to_owned();
            found.push((name, String::from_utf8(text).unwrap()));
            Ok(())
        })
        .unwrap();
        let expected = [
            ("a/empty.txt", ""),
            ("a/target", "a file may be called so"),
            ("a/z.txt", "zed"),
            ("b.txt", "bee"),
        ];
        assert!(found.iter().map(|(name, text)| (name.as_str(), text.as_str())).eq(expected), "{found:?}");
    }

    #[test]
    fn a_named_binary_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        fs::write(&path, b"ab\0").unwrap();
        let read = |path: &Path| read_texts(path, |_, _| Ok(())).unwrap_err().status();
        assert_eq!(read(&path), Status::BadFormat);
        assert_eq!(read(&dir.path().join("none")), Status::NotFound);
    }
}
