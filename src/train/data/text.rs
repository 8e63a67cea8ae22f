//! Text as a stream of documents.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::base::{Error, Result, Status};

/// Bytes at a file's beginning in which a zero byte makes it binary, as in git.
const BINARY_PROBE: usize = 8000;

/// Documents laid end to end, a token a byte.
#[derive(Clone, Debug, Default)]
pub struct Text {
    bytes: Vec<u8>,
    /// Where each document starts; increasing, the first 0.
    starts: Vec<u64>,
}

impl Text {
    /// Appends a document; an empty one leaves no trace.
    pub fn push(&mut self, document: &[u8]) {
        if !document.is_empty() {
            self.starts.push(self.bytes.len() as u64);
            self.bytes.extend_from_slice(document);
        }
    }

    /// Appends a file as one document, or every text file below a folder, sorted by path. Below a folder
    /// hidden entries, links, folders named `target` and binary files are passed over.
    pub fn read(&mut self, path: &Path) -> Result<()> {
        let metadata = fs::metadata(path).map_err(|error| cannot_read(path, &error))?;
        if !metadata.is_dir() {
            return match read_text(path)? {
                Some(document) => {
                    self.push(&document);
                    Ok(())
                }
                None => Err(Error::new(
                    Status::BadFormat,
                    format!("{} is binary: it has a zero byte near its beginning", path.display()),
                )),
            };
        }
        for file in files_below(path)? {
            if let Some(document) = read_text(&file)? {
                self.push(&document);
            }
        }
        Ok(())
    }

    /// Tokens in all.
    pub fn tokens(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Where each document starts; increasing, the first 0.
    pub fn documents(&self) -> &[u64] {
        &self.starts
    }

    /// Copies the tokens from `start` on.
    ///
    /// # Panics
    /// If they are not all in the text.
    pub fn copy(&self, start: u64, out: &mut [i32]) {
        let from = start as usize;
        let bytes = &self.bytes[from..from + out.len()];
        for (token, &byte) in out.iter_mut().zip(bytes) {
            *token = i32::from(byte);
        }
    }

    /// Takes out every `nth` document (the nth, the 2nth, …), for validation.
    pub fn hold_out(self, nth: usize) -> (Text, Text) {
        let (mut kept, mut held) = (Text::default(), Text::default());
        for (index, &start) in self.starts.iter().enumerate() {
            let end = self.starts.get(index + 1).copied().unwrap_or(self.tokens());
            let side = if (index + 1) % nth == 0 { &mut held } else { &mut kept };
            side.push(&self.bytes[start as usize..end as usize]);
        }
        (kept, held)
    }
}

fn cannot_read(path: &Path, error: &std::io::Error) -> Error {
    Error::io(format!("cannot read {}", path.display()), error)
}

/// The contents of a file, or nothing if it is binary.
fn read_text(path: &Path) -> Result<Option<Vec<u8>>> {
    let mut file = fs::File::open(path).map_err(|error| cannot_read(path, &error))?;
    let mut bytes = Vec::new();
    let mut read = |bytes: &mut Vec<u8>, most: u64| {
        file.by_ref().take(most).read_to_end(bytes).map_err(|error| cannot_read(path, &error))
    };
    read(&mut bytes, BINARY_PROBE as u64)?;
    if bytes.contains(&0) {
        return Ok(None);
    }
    read(&mut bytes, u64::MAX)?;
    Ok(Some(bytes))
}

/// Regular files below a folder, sorted by path.
fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(|error| cannot_read(&folder, &error))? {
            let entry = entry.map_err(|error| cannot_read(&folder, &error))?;
            let kind = entry.file_type().map_err(|error| cannot_read(&entry.path(), &error))?;
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

    fn all(text: &Text) -> (Vec<u8>, &[u64]) {
        let mut tokens = vec![0; text.tokens() as usize];
        text.copy(0, &mut tokens);
        (tokens.into_iter().map(|t| t as u8).collect(), text.documents())
    }

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
        let mut text = Text::default();
        text.read(dir.path()).unwrap();
        assert_eq!(all(&text), (b"a file may be called sozedbee".to_vec(), &[0u64, 23, 26][..]));
    }

    #[test]
    fn a_named_binary_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        fs::write(&path, b"ab\0").unwrap();
        assert_eq!(Text::default().read(&path).unwrap_err().status(), Status::BadFormat);
        assert_eq!(Text::default().read(&dir.path().join("none")).unwrap_err().status(), Status::NotFound);
    }

    #[test]
    fn every_nth_document_is_held_out_whole() {
        let mut text = Text::default();
        for document in ["one", "two", "three", "four", "five"] {
            text.push(document.as_bytes());
        }
        let (kept, held) = text.hold_out(2);
        assert_eq!(all(&kept), (b"onethreefive".to_vec(), &[0u64, 3, 8][..]));
        assert_eq!(all(&held), (b"twofour".to_vec(), &[0u64, 3][..]));
    }
}
