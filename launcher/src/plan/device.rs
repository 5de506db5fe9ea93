//! Which device computes.

use std::fmt;
use std::str::FromStr;

use hindsight_gpu_worker::device::probe::{GpuDescription, MOCK_DEVICE};
use hindsight_gpu_worker::device::{DeviceDescription, DeviceUnavailable};
use hindsight_protocol::device::{Device, ParseDeviceError};
use serde::{Serialize, Serializer};

use crate::error::{Error, Exit};

/// `--device`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DeviceWish {
    /// The first GPU where there is one that can be used, or else the CPU.
    #[default]
    Auto,
    /// This one and no other.
    Named(Device),
}

impl fmt::Display for DeviceWish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Named(device) => device.fmt(f),
        }
    }
}

impl FromStr for DeviceWish {
    type Err = ParseDeviceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "auto" { Ok(Self::Auto) } else { text.parse().map(Self::Named) }
    }
}

impl Serialize for DeviceWish {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The device of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChosenDevice {
    /// What was asked for.
    pub asked: DeviceWish,
    /// What computes.
    pub used: Device,
    /// What it calls itself.
    pub name: String,
    /// What is known of it, if it is a GPU.
    #[serde(flatten)]
    pub gpu: Option<GpuDescription>,
    /// Why it was chosen.
    pub why: String,
}

impl DeviceWish {
    /// Chooses the device; `probe` says whether one can be used.
    ///
    /// # Errors
    /// The device that was named cannot be used.
    pub fn decide(
        self,
        probe: impl Fn(Device) -> Result<DeviceDescription, DeviceUnavailable>,
    ) -> Result<ChosenDevice, Error> {
        let chosen = |DeviceDescription { device, name, gpu }, why: String| ChosenDevice {
            asked: self,
            used: device,
            name,
            gpu,
            why,
        };
        match self {
            Self::Named(device) => match probe(device) {
                Ok(found) => Ok(chosen(found, "asked for".to_owned())),
                Err(why) => Err(device_unavailable(device, &why)),
            },
            Self::Auto => match probe(Device::Cuda(0)) {
                Ok(found) => Ok(chosen(found, "the first GPU".to_owned())),
                Err(why) => match probe(Device::Cpu) {
                    Ok(found) => Ok(chosen(found, why.to_string())),
                    Err(error) => Err(device_unavailable(Device::Cpu, &error)),
                },
            },
        }
    }
}

/// The error of a device that was asked for and cannot be used.
#[must_use]
pub fn device_unavailable(device: Device, why: &DeviceUnavailable) -> Error {
    let message = format!("--device {device}: {why}");
    Error::new(Exit::Device, why.kind(), message).with_hint(why.hint())
}

impl ChosenDevice {
    /// Whether the program could have used a GPU, had there been one.
    #[must_use]
    pub fn fell_back(&self) -> bool {
        cfg!(feature = "cuda") && self.asked == DeviceWish::Auto && self.used == Device::Cpu
    }

    /// Checks that a link can be modelled (`--mock-link`): real devices have a real one.
    ///
    /// # Errors
    /// The device is not the mock driver's.
    pub fn check_mock_link(&self, link: &str) -> Result<(), Error> {
        if self.name == MOCK_DEVICE {
            return Ok(());
        }
        let message = format!(
            "--mock-link {link}: the device is {self}, and only the mock driver's link is modelled"
        );
        Err(Error::new(Exit::Usage, "no_mock_device", message)
            .with_hint("leave --mock-link out, or run on the mock driver: see docs/cuda.md"))
    }
}

/// The device of a measurement, as results name it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MeasuredOn {
    /// What computed.
    pub device: Device,
    /// The link that the mock driver modelled: no time was measured on a device then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modelled_link: Option<String>,
}

impl MeasuredOn {
    /// What a table of times must not leave unsaid.
    #[must_use]
    pub fn note(&self) -> Option<String> {
        let link = self.modelled_link.as_ref()?;
        Some(format!("the link is modelled, {link}: these times are no measurements"))
    }
}

/// For people: the device and its name.
impl fmt::Display for ChosenDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.used {
            Device::Cpu => f.write_str("the CPU"),
            Device::Cuda(_) => write!(f, "{} ({})", self.used, self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none(device: Device) -> Result<DeviceDescription, DeviceUnavailable> {
        match device {
            Device::Cpu => Ok(DeviceDescription { device, name: "CPU".to_owned(), gpu: None }),
            Device::Cuda(_) => Err(DeviceUnavailable::NoSuchDevice { device, gpus: 0 }),
        }
    }

    fn mock(device: Device) -> Result<DeviceDescription, DeviceUnavailable> {
        Ok(DeviceDescription { device, name: MOCK_DEVICE.to_owned(), gpu: None })
    }

    #[test]
    fn wishes_are_written_as_they_are_read() {
        for text in ["auto", "cpu", "cuda:1"] {
            assert_eq!(text.parse::<DeviceWish>().unwrap().to_string(), text);
        }
        assert!("gpu".parse::<DeviceWish>().is_err());
    }

    #[test]
    fn without_a_wish_the_first_gpu_computes_or_else_the_cpu_which_says_why() {
        let chosen = DeviceWish::Auto.decide(mock).unwrap();
        assert_eq!(chosen.used, Device::Cuda(0));
        let chosen = DeviceWish::Auto.decide(none).unwrap();
        assert_eq!(chosen.used, Device::Cpu);
        assert_eq!(chosen.why, "there is no cuda:0: the driver sees no GPU");
    }

    #[test]
    fn a_device_that_is_named_and_cannot_be_used_is_an_error() {
        let error = DeviceWish::Named(Device::Cuda(1)).decide(none).unwrap_err();
        assert_eq!((error.exit, error.kind.as_ref()), (Exit::Device, "no_such_device"));
        assert!(error.message.starts_with("--device cuda:1: "), "{error}");
        assert!(error.hint.is_some());
    }

    #[test]
    fn only_the_mock_device_has_a_modelled_link() {
        let device = |wish: DeviceWish| wish.decide(mock).unwrap();
        assert_eq!(device(DeviceWish::Auto).check_mock_link("gen4x16"), Ok(()));
        let cpu = DeviceWish::Named(Device::Cpu).decide(none).unwrap();
        let error = cpu.check_mock_link("gen4x16").unwrap_err();
        assert_eq!((error.exit, error.kind.as_ref()), (Exit::Usage, "no_mock_device"));
    }
}
