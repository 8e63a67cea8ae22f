//! The modules of a decoder. Each declares its parameters and buffers and emits its ops, forward
//! and backward, into a program.

mod attention;
mod branch;
mod embedding;
mod head;
mod linear;
mod mlp;
mod norm;

pub use attention::Attention;
pub use branch::{Branch, NormNames};
pub use embedding::{embedding_backward, embedding_forward};
pub use head::{HeadTask, head};
pub use mlp::Mlp;
pub use norm::Norm;
