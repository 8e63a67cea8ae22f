//! AdamW on the split master.

mod compact;
mod exact;
mod params;
mod pytorch;
mod rows;
mod whole;
