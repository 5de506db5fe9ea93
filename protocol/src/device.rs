//! Where the model computes.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The device that computes, and attends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Device {
    /// The processor: attention reads the arena in place.
    #[default]
    Cpu,
    /// The CUDA device of this number, as the driver counts them.
    Cuda(u32),
}

impl Device {
    /// Whether it is a GPU, with memory of its own.
    #[must_use]
    pub const fn is_cuda(self) -> bool {
        matches!(self, Self::Cuda(_))
    }
}

/// As [`Device::from_str`] reads it.
impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

impl From<Device> for String {
    fn from(device: Device) -> Self {
        device.to_string()
    }
}

/// What is not the name of a device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseDeviceError {
    /// It names no kind of device.
    #[error("{0:?} is no device: use cpu, or cuda:0 for the first GPU")]
    Unknown(String),
    /// What follows `cuda:` is no number.
    #[error("{0:?} is no number of a GPU: use cuda:0 for the first")]
    Number(String, #[source] ParseIntError),
}

/// Reads `cpu`, `cuda:N`, or `cuda` for the first GPU.
impl FromStr for Device {
    type Err = ParseDeviceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "cuda" => Ok(Self::Cuda(0)),
            Some(("cuda", number)) => match number.parse() {
                Ok(number) => Ok(Self::Cuda(number)),
                Err(error) => Err(ParseDeviceError::Number(number.to_owned(), error)),
            },
            _ => Err(ParseDeviceError::Unknown(text.to_owned())),
        }
    }
}

impl TryFrom<String> for Device {
    type Error = ParseDeviceError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_written_as_it_is_read() {
        for device in [Device::Cpu, Device::Cuda(0), Device::Cuda(7)] {
            assert_eq!(device.to_string().parse(), Ok(device));
        }
        assert_eq!("cuda".parse(), Ok(Device::Cuda(0)));
    }

    #[test]
    fn what_is_no_device_is_named_with_what_would_be_one() {
        for wrong in ["gpu", "cpu:0", "cuda:", "cuda:-1", "CUDA:0", ""] {
            let error = wrong.parse::<Device>().unwrap_err().to_string();
            assert!(error.contains("cuda:0"), "{error}");
        }
    }
}
