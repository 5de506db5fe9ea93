//! GPUs, and the links that they hang on.

use serde::Serialize;

use super::root::Root;

const DEVICES: &str = "sys/bus/pci/devices";
const NVIDIA: &str = "0x10de";
/// PCI class of display controllers: those with a screen, and those without.
const DISPLAY_CLASS: &str = "0x03";

/// An NVIDIA GPU.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Gpu {
    /// Its PCI address, such as `0000:41:00.0`.
    pub address: String,
    /// Its name, if its driver is there to say so.
    pub name: Option<String>,
    /// The node that it is near to; nothing where the system does not say.
    pub node: Option<u32>,
    /// The link as it is now. Idle GPUs lower its generation to save power.
    pub link: Option<Link>,
    /// The link as the GPU could have it.
    pub link_max: Option<Link>,
}

/// A PCIe link.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Link {
    /// PCIe generation, 1 to 6.
    pub generation: u32,
    /// Lanes.
    pub width: u32,
    /// What it can carry in one direction, after its encoding, in GB/s.
    pub gb_per_s: f64,
}

impl Link {
    /// A link of a generation from 1 to 6.
    fn new(generation: u32, width: u32) -> Option<Self> {
        let lane = [0.25, 0.5, 0.985, 1.969, 3.938, 7.563];
        let lane = lane.get(usize::try_from(generation.checked_sub(1)?).ok()?)?;
        (1..=32).contains(&width).then(|| Self {
            generation,
            width,
            gb_per_s: lane * f64::from(width),
        })
    }

    /// From what sysfs says of speed and width.
    fn parse(speed: &str, width: &str) -> Option<Self> {
        let generation = match speed.split_whitespace().next()? {
            "2.5" => 1,
            "5.0" | "5" => 2,
            "8.0" | "8" => 3,
            "16.0" | "16" => 4,
            "32.0" | "32" => 5,
            "64.0" | "64" => 6,
            _ => return None,
        };
        Self::new(generation, width.parse().ok()?)
    }
}

/// All GPUs, by address.
pub(super) fn read(root: &Root) -> Vec<Gpu> {
    let gpu = |address: String| {
        let directory = format!("{DEVICES}/{address}");
        let text = |file: &str| root.text(format!("{directory}/{file}"));
        let link = |now: &str| {
            Link::parse(&text(&format!("{now}_link_speed"))?, &text(&format!("{now}_link_width"))?)
        };
        if text("vendor")? != NVIDIA || !text("class")?.starts_with(DISPLAY_CLASS) {
            return None;
        }
        let information = format!("proc/driver/nvidia/gpus/{address}/information");
        Some(Gpu {
            name: root.field(information, "Model"),
            // -1 where the firmware does not say.
            node: text("numa_node").and_then(|node| node.parse().ok()),
            link: link("current"),
            link_max: link("max"),
            address,
        })
    };
    root.names(DEVICES).into_iter().filter_map(gpu).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_read_as_generation_and_width() {
        let link = Link::parse("16.0 GT/s PCIe", "16").unwrap();
        assert_eq!((link.generation, link.width), (4, 16));
        assert!((link.gb_per_s - 31.5).abs() < 0.1);
        assert_eq!(Link::parse("2.5 GT/s", "8").unwrap().generation, 1);
    }

    #[test]
    fn a_link_that_the_system_does_not_know_is_none() {
        assert_eq!(Link::parse("Unknown", "16"), None);
        assert_eq!(Link::parse("16.0 GT/s PCIe", "0"), None);
        assert_eq!(Link::parse("16.0 GT/s PCIe", "255"), None);
    }
}
