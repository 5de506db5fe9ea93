//! What is looked at while a profiled run goes on, besides what its processes write down.

use super::counters::Counters;
use crate::plan::ChosenDevice;

/// Somebody who looks at a GPU's counters, if there is a GPU.
#[derive(Debug)]
pub struct Watch {
    #[cfg(feature = "cuda")]
    reader: Option<super::nvml::Reader>,
}

impl Watch {
    /// Begins to look. On the CPU nothing is started.
    #[must_use]
    pub fn start(device: &ChosenDevice) -> Self {
        #[cfg(feature = "cuda")]
        if let hindsight_protocol::device::Device::Cuda(number) = device.used {
            let reader = super::nvml::Reader::start(number, device.name.clone());
            return Self { reader: Some(reader) };
        }
        let _ = device;
        Self {
            #[cfg(feature = "cuda")]
            reader: None,
        }
    }

    /// Ends looking; what was seen.
    #[must_use]
    pub fn finish(self) -> Counters {
        #[cfg(feature = "cuda")]
        if let Some(reader) = self.reader {
            return reader.finish();
        }
        Counters::absent("the device was the CPU, which has no link to count on")
    }
}
