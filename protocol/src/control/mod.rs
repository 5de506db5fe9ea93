//! The control plane: framed messages between the launcher and each of its children.

pub mod codec;
pub mod messages;
