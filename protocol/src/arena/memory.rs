//! Where an arena's memory comes from, and in pages of which size.

use rustix::io;
use rustix::mm::Advice;
use serde::{Deserialize, Serialize};

use super::layout::{HUGE_PAGE, PAGE};
use super::segment::Mapping;

/// The node that memory comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodePolicy {
    /// This node and no other: where it has none left, memory cannot be had.
    Bind(u32),
    /// This node, as long as it has any left.
    Prefer(u32),
}

impl NodePolicy {
    /// The node.
    #[must_use]
    pub const fn node(self) -> u32 {
        match self {
            Self::Bind(node) | Self::Prefer(node) => node,
        }
    }
}

/// Pages of an arena.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pages {
    /// The machine's ordinary pages.
    #[default]
    Small,
    /// Huge pages (2 MiB on x86-64) as far as the kernel gives them, or else ordinary ones.
    Huge,
    /// Huge pages of this many bytes that somebody has reserved.
    Reserved(usize),
}

/// Where an arena's memory comes from, and in pages of which size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ArenaMemory {
    /// The node; by default that of the core which touches a page first.
    pub node: Option<NodePolicy>,
    /// The pages.
    pub pages: Pages,
}

/// Nodes that a mask has room for; no kernel has more.
const MAX_NODES: usize = 1024;
const WORD_BITS: usize = libc::c_ulong::BITS as usize;

type NodeMask = [libc::c_ulong; MAX_NODES / WORD_BITS];

impl NodePolicy {
    const fn mode(self) -> libc::c_int {
        match self {
            Self::Bind(_) => libc::MPOL_BIND,
            Self::Prefer(_) => libc::MPOL_PREFERRED,
        }
    }

    fn mask(self) -> io::Result<NodeMask> {
        let node = self.node() as usize;
        let mut mask: NodeMask = [0; _];
        let word = mask.get_mut(node / WORD_BITS).ok_or(io::Errno::INVAL)?;
        *word |= 1 << (node % WORD_BITS);
        Ok(mask)
    }

    /// Does something while memory that this thread takes comes from the node. Reserved huge pages need it: their files keep
    /// no policy.
    ///
    /// # Errors
    /// The kernel's, as for a mapping's policy.
    pub(super) fn during<T>(self, action: impl FnOnce() -> T) -> io::Result<T> {
        set_thread_policy(self.mode(), Some(&self.mask()?))?;
        let done = action();
        set_thread_policy(libc::MPOL_DEFAULT, None)?;
        Ok(done)
    }
}

fn set_thread_policy(mode: libc::c_int, mask: Option<&NodeMask>) -> io::Result<()> {
    let mask = mask.map_or(std::ptr::null(), |mask| mask.as_ptr());
    // SAFETY: the mask is as long as said, for the kernel takes one off the number of its bits; without one there is nothing
    // to read. Where memory comes from changes no byte of it.
    let status = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, MAX_NODES + 1) };
    if status == 0 { Ok(()) } else { Err(errno()) }
}

impl Mapping {
    /// Has the memory behind this mapping come from a node from now on, in whichever process it is touched: shared memory
    /// keeps its policy with the file. What is there already stays where it is.
    ///
    /// # Errors
    /// The kernel's: `EINVAL` if there is no such node or this process may not use it, `EPERM` where a sandbox forbids it.
    pub(super) fn set_policy(&self, policy: NodePolicy) -> io::Result<()> {
        let (mode, mask) = (policy.mode(), policy.mask()?);
        let (address, length) = self.span();
        // SAFETY: the address and length are those of a live mapping, of which no byte changes; the mask is as long as
        // said: the kernel takes one off the number of its bits.
        let status = unsafe {
            libc::syscall(libc::SYS_mbind, address, length, mode, mask.as_ptr(), MAX_NODES + 1, 0)
        };
        if status == 0 { Ok(()) } else { Err(errno()) }
    }

    /// Joins the pages of this mapping to huge ones as far as the kernel can (from Linux 6.1 on), whatever the system's
    /// setting for shared memory. Untouched pages beside one that is there read as zero afterwards.
    ///
    /// The first page of each huge one is mapped before: Linux 6.1 stops at the first of which nothing is mapped.
    pub(super) fn join_pages(&self) {
        let (address, length) = self.span();
        for offset in (0..length).step_by(HUGE_PAGE) {
            // SAFETY: mapping a page changes no byte of it, and its address is inside the mapping.
            let _ = unsafe {
                rustix::mm::madvise(address.add(offset), PAGE, Advice::LinuxPopulateRead)
            };
        }
        // SAFETY: joined pages hold what the small ones held. What cannot be joined stays as it is.
        let _ = unsafe { libc::madvise(address, length, libc::MADV_COLLAPSE) };
    }
}

fn errno() -> io::Errno {
    io::Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(io::Errno::INVAL)
}

#[cfg(test)]
mod tests {
    use super::super::segment::{Access, Segment};
    use super::*;

    const HUGE: usize = 2 << 20;

    fn line(mapping: &Mapping) -> String {
        let start = format!("{:x} ", mapping.span().0 as usize);
        let maps = std::fs::read_to_string("/proc/self/numa_maps").unwrap();
        maps.lines().find(|line| line.starts_with(&start)).unwrap().to_owned()
    }

    #[test]
    fn memory_comes_from_the_node_that_was_named_whoever_touches_it() {
        let segment = Segment::create(HUGE, Pages::Small).unwrap();
        let first = segment.map(0, HUGE, Access::Write).unwrap();
        first.set_policy(NodePolicy::Bind(0)).unwrap();
        let second = segment.map(0, HUGE, Access::Write).unwrap();
        segment.populate(0, HUGE).unwrap();
        // SAFETY: the byte lies inside the mapping.
        unsafe { second.range(0, 1).as_ptr().write_volatile(1) };
        let line = line(&second);
        assert!(line.contains("bind:0") && line.contains("N0="), "{line}");
        first.set_policy(NodePolicy::Prefer(0)).unwrap();
    }

    #[test]
    fn a_node_that_does_not_exist_is_refused() {
        let segment = Segment::create(HUGE, Pages::Small).unwrap();
        let mapping = segment.map(0, HUGE, Access::Write).unwrap();
        for node in [1023, 1024, u32::MAX] {
            assert_eq!(mapping.set_policy(NodePolicy::Bind(node)), Err(io::Errno::INVAL));
        }
    }

    #[test]
    fn a_threads_memory_comes_from_a_node_for_as_long_as_it_is_told() {
        let policy = || {
            let mut mode = -1;
            // SAFETY: the kernel writes one number to where it is told; there is no mask to write to.
            let status = unsafe {
                libc::syscall(
                    libc::SYS_get_mempolicy,
                    &raw mut mode,
                    std::ptr::null::<u8>(),
                    0,
                    0,
                    0,
                )
            };
            assert_eq!(status, 0);
            mode
        };
        assert_eq!(NodePolicy::Bind(0).during(policy), Ok(libc::MPOL_BIND));
        assert_eq!(NodePolicy::Prefer(0).during(policy), Ok(libc::MPOL_PREFERRED));
        assert_eq!(policy(), libc::MPOL_DEFAULT);
        assert_eq!(NodePolicy::Bind(1023).during(policy), Err(io::Errno::INVAL));
    }

    #[test]
    fn joined_pages_hold_what_small_ones_held() {
        let segment = Segment::create(2 * HUGE, Pages::Huge).unwrap();
        let mapping = segment.map(0, 2 * HUGE, Access::Write).unwrap();
        let byte = |at: usize| mapping.range(at, 1).as_ptr();
        // SAFETY: the byte lies inside the mapping, which nothing else uses.
        unsafe { byte(HUGE + 5000).write_volatile(7) };
        mapping.join_pages();
        // SAFETY: as above.
        unsafe {
            assert_eq!(byte(HUGE + 5000).read_volatile(), 7);
            assert_eq!(byte(HUGE + 9000).read_volatile(), 0);
        }
    }
}
