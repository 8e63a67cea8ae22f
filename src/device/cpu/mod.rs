//! The CPU device: lanes are threads, device memory is an arena of its own.
