//! Where the arena's memory comes from, and in pages of which size.

use clap::ValueEnum;
use hindsight_protocol::arena::{ArenaMemory, NodePolicy, Pages};
use indicatif::HumanBytes;
use serde::Serialize;

use crate::error::{Error, Exit};
use crate::topology::{HugePages, Node, Topology};

/// Pages of the arena.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ValueEnum)]
pub enum PageWish {
    /// Huge pages of 2 MiB as far as the kernel gives them, or else ordinary ones
    #[default]
    #[value(name = "auto")]
    #[serde(rename = "auto")]
    Auto,
    /// Huge pages of 2 MiB: reserved ones if there are enough, or else as with `auto`
    #[value(name = "2M")]
    #[serde(rename = "2M")]
    Huge2M,
    /// Reserved huge pages of 1 GiB
    #[value(name = "1G")]
    #[serde(rename = "1G")]
    Huge1G,
    /// Ordinary pages
    #[value(name = "off")]
    #[serde(rename = "off")]
    Off,
}

/// What the user asked for, and what it is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArenaRequest {
    /// Bytes of the whole arena.
    pub bytes: u64,
    /// The node that was chosen for it.
    pub node: u32,
    /// The node of the indexer, which takes the arena's memory.
    pub indexer_node: u32,
    /// Whether the user named the arena's node.
    pub node_named: bool,
    /// `--hugepages`.
    pub pages: PageWish,
    /// Whether the kernel has transparent huge pages.
    pub transparent: bool,
}

const MIB_2: u64 = 2 << 20;
const GIB_1: u64 = 1 << 30;

impl ArenaRequest {
    /// Decides where the arena's memory comes from: from a node that was named and no other, or as far as possible from
    /// the one that was chosen.
    ///
    /// # Errors
    /// The node is too small for the arena, or the huge pages that were asked for cannot be had.
    pub fn decide(self, topology: &Topology) -> Result<ArenaMemory, Error> {
        let several = topology.nodes.iter().filter(|node| node.holds_memory()).count() > 1;
        let node = if self.node_named {
            Some(NodePolicy::Bind(self.node))
        } else {
            several.then_some(NodePolicy::Prefer(self.node))
        };
        let pages = match self.pages {
            PageWish::Off => Pages::Small,
            PageWish::Auto => Pages::Huge,
            PageWish::Huge1G => self.reserved(topology, GIB_1)?,
            PageWish::Huge2M => match self.reserved(topology, MIB_2) {
                Ok(reserved) => reserved,
                Err(_) if self.transparent => Pages::Huge,
                Err(error) => return Err(error),
            },
        };
        // Reserved pages are counted apart.
        if self.node_named && !matches!(pages, Pages::Reserved(_)) {
            self.fits_node(topology)?;
        }
        Ok(ArenaMemory { node, pages })
    }

    /// Where a bound node has no memory left, the kernel refuses nothing: it kills processes until there is some.
    fn fits_node(self, topology: &Topology) -> Result<(), Error> {
        let (left, all) = topology
            .node(self.node)
            .map_or((0, 0), |node| (node.available_bytes, node.memory_bytes));
        if self.bytes <= left {
            return Ok(());
        }
        let message = format!(
            "an arena of {} does not fit --arena-node {}, which has {} left of {}",
            HumanBytes(self.bytes),
            self.node,
            HumanBytes(left),
            HumanBytes(all)
        );
        Err(Error::new(Exit::DoesNotFit, "arena_node_too_small", message)
            .with_hint("ask for a shorter --context, or leave --arena-node out: the rest comes from other nodes then"))
    }

    /// Reserved huge pages, if there are enough free ones for the whole arena on its node. The kernel gives them from the
    /// node of the thread that takes them, whatever the policy of the file.
    fn reserved(self, topology: &Topology, page_bytes: u64) -> Result<Pages, Error> {
        let mine = |node: &&Node| node.id == self.node;
        let pools = topology.nodes.iter().filter(mine).flat_map(|node| &node.huge_pages);
        let pool = |pool: &&HugePages| pool.page_bytes == page_bytes;
        let (free, total) = pools
            .filter(pool)
            .fold((0_u64, 0_u64), |(free, total), pool| (free + pool.free, total + pool.total));
        let needed = self.bytes.div_ceil(page_bytes);
        if self.node != self.indexer_node {
            let message = format!(
                "reserved huge pages come from the indexer's node, {}, not from node {}",
                self.indexer_node, self.node
            );
            return Err(Error::new(Exit::Placement, "huge_pages", message)
                .with_hint("leave --arena-node out, or choose --hugepages off"));
        }
        if needed <= free {
            return usize::try_from(page_bytes).map(Pages::Reserved).map_err(Error::internal);
        }
        let size = HumanBytes(page_bytes);
        let message = format!(
            "the arena needs {needed} huge pages of {size}, but {free} of the {total} reserved are free"
        );
        let path =
            format!("/sys/kernel/mm/hugepages/hugepages-{}kB/nr_hugepages", page_bytes >> 10);
        Err(Error::new(Exit::Placement, "huge_pages", message)
            .with_hint(format!("reserve them: echo {} | sudo tee {path}", total - free + needed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::Root;
    use crate::topology::machine::Machine;

    const REQUEST: ArenaRequest = ArenaRequest {
        bytes: 100 << 20,
        node: 1,
        indexer_node: 1,
        node_named: false,
        pages: PageWish::Auto,
        transparent: true,
    };

    fn reserve(machine: &Machine, node: u32, kib: u32, total: u32, free: u32) {
        let directory = format!("sys/devices/system/node/node{node}/hugepages/hugepages-{kib}kB");
        machine.file(&format!("{directory}/nr_hugepages"), &total.to_string());
        machine.file(&format!("{directory}/free_hugepages"), &free.to_string());
    }

    fn decide(machine: &Machine, request: ArenaRequest) -> Result<ArenaMemory, Error> {
        request.decide(&Topology::read(&Root::copy(machine.path().to_owned())))
    }

    #[test]
    fn a_node_that_was_chosen_is_preferred_and_one_that_was_named_is_bound() {
        let machine = Machine::two_socket_xeon();
        let chosen = decide(&machine, REQUEST).unwrap();
        assert_eq!(chosen, ArenaMemory { node: Some(NodePolicy::Prefer(1)), pages: Pages::Huge });
        let named = decide(&machine, ArenaRequest { node_named: true, ..REQUEST }).unwrap();
        assert_eq!(named.node, Some(NodePolicy::Bind(1)));
        let one = decide(&Machine::laptop(), ArenaRequest { node: 0, indexer_node: 0, ..REQUEST })
            .unwrap();
        assert_eq!(one.node, None);
    }

    #[test]
    fn a_named_node_must_be_large_enough() {
        let machine = Machine::two_socket_xeon();
        let large = ArenaRequest { bytes: 100 << 30, ..REQUEST };
        assert!(decide(&machine, large).is_ok());
        let error = decide(&machine, ArenaRequest { node_named: true, ..large }).unwrap_err();
        assert_eq!((error.exit, error.kind.as_ref()), (Exit::DoesNotFit, "arena_node_too_small"));
    }

    #[test]
    fn a_named_node_that_others_have_filled_is_refused_before_the_kernel_kills_anybody() {
        let machine = Machine::two_socket_xeon();
        let named = ArenaRequest { bytes: 50 << 30, node_named: true, ..REQUEST };
        let error = decide(&machine, named).unwrap_err();
        assert_eq!((error.exit, error.kind.as_ref()), (Exit::DoesNotFit, "arena_node_too_small"));
        assert!(error.message.contains("48.00 GiB left of 96.00 GiB"), "{error}");
        assert!(decide(&machine, ArenaRequest { node_named: false, ..named }).is_ok());
    }

    #[test]
    fn reserved_pages_are_taken_if_there_are_enough_where_they_must_be() {
        let machine = Machine::two_socket_xeon();
        reserve(&machine, 0, 2048, 80, 60);
        reserve(&machine, 1, 2048, 20, 20);
        let wish = ArenaRequest { pages: PageWish::Huge2M, ..REQUEST };
        assert_eq!(decide(&machine, wish).unwrap().pages, Pages::Huge);
        let first = ArenaRequest { node: 0, indexer_node: 0, ..wish };
        let reserved =
            ArenaMemory { node: Some(NodePolicy::Prefer(0)), pages: Pages::Reserved(2 << 20) };
        assert_eq!(decide(&machine, first).unwrap(), reserved);
        let elsewhere = ArenaRequest { indexer_node: 1, ..first };
        let joined = ArenaMemory { node: Some(NodePolicy::Prefer(0)), pages: Pages::Huge };
        assert_eq!(decide(&machine, elsewhere).unwrap(), joined);
        let error = decide(&machine, ArenaRequest { transparent: false, ..wish }).unwrap_err();
        assert_eq!((error.exit, error.kind.as_ref()), (Exit::Placement, "huge_pages"));
        assert!(error.message.contains("50 huge pages of 2.00 MiB, but 20 of the 20"), "{error}");
    }

    #[test]
    fn pages_that_are_missing_are_counted_in_the_command_that_reserves_them() {
        let machine = Machine::laptop();
        reserve(&machine, 0, 1 << 20, 3, 1);
        let wish = ArenaRequest {
            bytes: (1 << 30) + 1,
            node: 0,
            indexer_node: 0,
            pages: PageWish::Huge1G,
            ..REQUEST
        };
        let hint = decide(&machine, wish).unwrap_err().hint.unwrap();
        assert!(hint.contains("echo 4 | sudo tee"), "{hint}");
        assert!(hint.contains("hugepages-1048576kB/nr_hugepages"), "{hint}");
        let fits = ArenaRequest { bytes: 1 << 30, ..wish };
        assert_eq!(decide(&machine, fits).unwrap().pages, Pages::Reserved(1 << 30));
    }
}
