//! AdamW on the split master, in host memory (Loshchilov & Hutter 2019).
