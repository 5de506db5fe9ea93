//! The devices that attention runs on.

pub mod cpu;
