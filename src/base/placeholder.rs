//! Files that take the place of others.

/// Completes "FILE is …": the file has the place of another; says how to get that.
pub const LFS_POINTER: &str = "a Git LFS pointer, not the file itself; run `git lfs pull` in its folder";
/// As [`LFS_POINTER`].
pub const WEB_PAGE: &str = "a web page, as a failed download leaves it; download the file again";

/// Returns [`LFS_POINTER`] or [`WEB_PAGE`] by a file's first bytes; `None` for other files.
pub fn placeholder(bytes: &[u8]) -> Option<&'static str> {
    if bytes.starts_with(b"version https://git-lfs") {
        return Some(LFS_POINTER);
    }
    let start = bytes.trim_ascii_start();
    let begins = |tag: &[u8]| start.get(..tag.len()).is_some_and(|start| start.eq_ignore_ascii_case(tag));
    (begins(b"<!doctype html") || begins(b"<html")).then_some(WEB_PAGE)
}
