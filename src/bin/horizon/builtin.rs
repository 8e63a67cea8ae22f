//! The default data of `horizon train`: the sources of this program, which the binary contains.

use horizon::base::Result;
use horizon::data::{Documents, Encoder, Warnings};
use include_dir::{Dir, include_dir};

static SOURCES: Dir = include_dir!("$CARGO_MANIFEST_DIR/src");

/// One document in this many is held out for validation.
const HELD_OUT: usize = 16;

/// Returns the documents to train on and those held out. A file is a document; they are sorted by
/// path.
pub fn sources() -> Result<(Documents, Documents)> {
    let mut files = Vec::new();
    let mut folders = vec![&SOURCES];
    while let Some(folder) = folders.pop() {
        files.extend(folder.files().map(|file| (file.path(), file.contents())));
        folders.extend(folder.dirs());
    }
    files.sort();
    let encoder = Encoder::bytes();
    let mut documents = Documents::default();
    for (_, contents) in files {
        documents.push(&encoder.document(contents, &mut Warnings::default())?);
    }
    Ok(documents.hold_out(HELD_OUT))
}
