//! Files that take the place of others. The texts complete "FILE is …" and say how to get the file.

/// A web page where a file should be.
pub const WEB_PAGE: &str = "a web page, as a failed download leaves it; download the file again";

/// Returns what a file is, by its first bytes, if Git or a failed download left it in the place of
/// another.
pub fn placeholder(bytes: &[u8]) -> Option<&'static str> {
    lfs_pointer(bytes).or_else(|| web_page(bytes))
}

/// Returns what a file is, if it is a pointer of Git LFS.
pub fn lfs_pointer(bytes: &[u8]) -> Option<&'static str> {
    bytes
        .starts_with(b"version https://git-lfs")
        .then_some("a Git LFS pointer, not the file itself; run `git lfs pull` in its folder")
}

fn web_page(bytes: &[u8]) -> Option<&'static str> {
    let start = bytes.trim_ascii_start();
    let begins = |tag: &[u8]| start.get(..tag.len()).is_some_and(|start| start.eq_ignore_ascii_case(tag));
    (begins(b"<!doctype html") || begins(b"<html")).then_some(WEB_PAGE)
}
