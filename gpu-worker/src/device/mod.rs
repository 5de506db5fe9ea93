//! The devices that attention runs on.

pub mod cpu;
pub mod probe;

pub use probe::{DeviceDescription, DeviceUnavailable, probe};
