//! A sealed anonymous memory file, and mappings of it.
//!
//! The file has no name: it is inherited or passed as a descriptor, and the kernel frees it when the last of its
//! holders ends, however it ends.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::io;
use rustix::mm::{MapFlags, ProtFlags};

use super::memory::Pages;

/// Seals that keep a peer from resizing the file under our mapping.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// File system type of memory files in reserved huge pages.
const HUGETLBFS: u64 = 0x9584_58f6;
/// Mappings begin at multiples of it, so that huge pages can be mapped whole.
const ALIGNMENT: usize = 2 << 20;

/// A memory file of fixed size.
#[derive(Debug)]
pub struct Segment {
    file: File,
    bytes: usize,
    /// Size of its pages if they are reserved huge ones; or else 1.
    granule: usize,
}

impl Segment {
    /// Creates a segment of at least `bytes` zero bytes, sealed against resizing: reserved huge pages are not cut.
    ///
    /// # Errors
    /// The kernel's error, in particular `ENOMEM` and `EFBIG`; `EINVAL` or `ENODEV` if it has no such huge pages.
    pub fn create(bytes: usize, pages: Pages) -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let (flags, granule) = match pages {
            Pages::Small | Pages::Huge => (flags, 1),
            Pages::Reserved(size) => (flags | reserved_flags(size)?, size),
        };
        let bytes = bytes.checked_next_multiple_of(granule).ok_or(io::Errno::FBIG)?;
        let descriptor = rustix::fs::memfd_create("hindsight-arena", flags)?;
        rustix::fs::ftruncate(&descriptor, bytes as u64)?;
        rustix::fs::fcntl_add_seals(&descriptor, SEALS)?;
        Ok(Self { file: File::from(descriptor), bytes, granule })
    }

    /// Takes over a segment that another process made.
    ///
    /// # Errors
    /// The kernel's error; `EPERM` if the file could still be resized.
    pub fn adopt(descriptor: OwnedFd) -> io::Result<Self> {
        if !rustix::fs::fcntl_get_seals(&descriptor)?.contains(SEALS) {
            return Err(io::Errno::PERM);
        }
        let size = rustix::fs::fstat(&descriptor)?.st_size;
        let bytes = usize::try_from(size).map_err(|_| io::Errno::OVERFLOW)?;
        let system = rustix::fs::fstatfs(&descriptor)?;
        // Both are small positive numbers, whatever type the architecture gives them.
        let granule = match u64::try_from(system.f_type) {
            Ok(HUGETLBFS) => usize::try_from(system.f_bsize).map_err(|_| io::Errno::OVERFLOW)?,
            _ => 1,
        };
        Ok(Self { file: File::from(descriptor), bytes, granule: granule.max(1) })
    }

    /// Size in bytes; it never changes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Size of the segment's pages if they are reserved huge ones; or else 1.
    pub(super) const fn granule(&self) -> usize {
        self.granule
    }

    /// Takes memory for `length` bytes from `offset` on, so that touching them later cannot fail. Pages come from the
    /// memory node of the calling thread.
    pub(crate) fn populate(&self, offset: usize, length: usize) -> io::Result<()> {
        rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, offset as u64, length as u64)
    }

    /// Gives the memory of `length` bytes from `offset` on back to the system; they read as zero from then on.
    pub(crate) fn release(&self, offset: usize, length: usize) -> io::Result<()> {
        let flags = FallocateFlags::KEEP_SIZE | FallocateFlags::PUNCH_HOLE;
        rustix::fs::fallocate(&self.file, flags, offset as u64, length as u64)
    }

    /// Maps `length` bytes from `offset` on. With reserved huge pages, what lies on the same pages is mapped, too, but
    /// out of the mapping's reach.
    pub(crate) fn map(&self, offset: usize, length: usize, access: Access) -> io::Result<Mapping> {
        assert!(offset.checked_add(length).is_some_and(|end| end <= self.bytes));
        let protection = match access {
            Access::Read => ProtFlags::READ,
            Access::Write => ProtFlags::READ | ProtFlags::WRITE,
        };
        let lead = offset % self.granule;
        let mapped = (lead + length).next_multiple_of(self.granule);
        let hint = if mapped < ALIGNMENT { std::ptr::null_mut() } else { aligned_hint(mapped)? };
        // SAFETY: a fresh mapping at an address that the kernel chooses, for what it is given is only a hint; it aliases
        // no Rust object.
        let start = unsafe {
            rustix::mm::mmap(
                hint,
                mapped,
                protection,
                MapFlags::SHARED | MapFlags::NORESERVE,
                &self.file,
                (offset - lead) as u64,
            )?
        };
        let start = NonNull::new(start.cast()).ok_or(io::Errno::FAULT)?;
        Ok(Mapping { start, mapped, lead, length })
    }
}

/// Flags of a memory file in huge pages of `size` bytes.
fn reserved_flags(size: usize) -> io::Result<MemfdFlags> {
    let size = match size {
        0x20_0000 => MemfdFlags::HUGE_2MB,
        0x4000_0000 => MemfdFlags::HUGE_1GB,
        _ => return Err(io::Errno::INVAL),
    };
    Ok(MemfdFlags::HUGETLB | size)
}

/// An aligned address with room for `length` bytes behind it, unless another thread takes it first.
fn aligned_hint(length: usize) -> io::Result<*mut std::ffi::c_void> {
    let room = length.checked_add(ALIGNMENT).ok_or(io::Errno::NOMEM)?;
    // SAFETY: a fresh mapping without access; nothing points into it when it is unmapped again.
    let address = unsafe {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        let address =
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), room, ProtFlags::empty(), flags)?;
        rustix::mm::munmap(address, room)?;
        address
    };
    Ok(address.map_addr(|address| address.next_multiple_of(ALIGNMENT)))
}

impl AsFd for Segment {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// What a mapping may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// A mapped part of a segment; unmapped when dropped.
#[derive(Debug)]
pub(crate) struct Mapping {
    /// The first byte mapped, and how many are.
    start: NonNull<u8>,
    mapped: usize,
    /// Of these, bytes before those that were asked for, and how many were.
    lead: usize,
    length: usize,
}

// SAFETY: a mapping is plain memory, valid from every thread until it is dropped.
unsafe impl Send for Mapping {}
// SAFETY: shared references only hand out raw pointers; their users argue for each access.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Pointer to `length` bytes at `offset`.
    ///
    /// # Panics
    /// If the range is not inside the mapping.
    pub(crate) fn range(&self, offset: usize, length: usize) -> NonNull<u8> {
        let inside = offset.checked_add(length).is_some_and(|end| end <= self.length);
        assert!(inside, "{length} bytes at {offset} of a mapping of {} bytes", self.length);
        // SAFETY: the assertion above keeps the pointer inside the mapping.
        unsafe { self.start.add(self.lead + offset) }
    }

    /// Address and length of all that is mapped, for system calls.
    pub(super) const fn span(&self) -> (*mut std::ffi::c_void, usize) {
        (self.start.as_ptr().cast(), self.mapped)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let (start, mapped) = self.span();
        // SAFETY: this is what mmap gave, and all borrows of the mapping have ended.
        // An error would leave the pages mapped until the process ends, which harms nobody.
        let _ = unsafe { rustix::mm::munmap(start, mapped) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_cannot_be_resized() {
        let segment = Segment::create(8192, Pages::Small).unwrap();
        assert_eq!(rustix::fs::ftruncate(segment.as_fd(), 4096), Err(io::Errno::PERM));
        assert_eq!(rustix::fs::ftruncate(segment.as_fd(), 16384), Err(io::Errno::PERM));
    }

    #[test]
    fn an_unsealed_file_is_not_adopted() {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let descriptor = rustix::fs::memfd_create("unsealed", flags).unwrap();
        assert_eq!(Segment::adopt(descriptor).err(), Some(io::Errno::PERM));
    }

    #[test]
    fn large_mappings_begin_where_huge_pages_can() {
        let segment = Segment::create(3 * ALIGNMENT, Pages::Small).unwrap();
        let mapping = segment.map(ALIGNMENT, 2 * ALIGNMENT, Access::Read).unwrap();
        assert_eq!(mapping.span().0 as usize % ALIGNMENT, 0);
    }

    #[test]
    fn released_memory_reads_as_zero() {
        let segment = Segment::create(8192, Pages::Small).unwrap();
        segment.populate(0, 8192).unwrap();
        let mapping = segment.map(0, 8192, Access::Write).unwrap();
        let byte = mapping.range(5000, 1).as_ptr();
        // SAFETY: the byte lies inside the mapping. The kernel changes it behind the compiler's back: hence volatile.
        unsafe { byte.write_volatile(7) };
        segment.release(4096, 4096).unwrap();
        // SAFETY: as above.
        assert_eq!(unsafe { byte.read_volatile() }, 0);
    }
}
