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

/// Seals that keep a peer from resizing the file under our mapping.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// A memory file of fixed size.
#[derive(Debug)]
pub struct Segment {
    file: File,
    bytes: usize,
}

impl Segment {
    /// Creates a segment of `bytes` zero bytes, sealed against resizing.
    ///
    /// # Errors
    /// The kernel's error, in particular `ENOMEM` and `EFBIG`.
    pub fn create(bytes: usize) -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let descriptor = rustix::fs::memfd_create("hindsight-arena", flags)?;
        rustix::fs::ftruncate(&descriptor, bytes as u64)?;
        rustix::fs::fcntl_add_seals(&descriptor, SEALS)?;
        Ok(Self { file: File::from(descriptor), bytes })
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
        Ok(Self { file: File::from(descriptor), bytes })
    }

    /// Size in bytes; it never changes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
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

    /// Maps `length` bytes from `offset` on.
    pub(crate) fn map(&self, offset: usize, length: usize, access: Access) -> io::Result<Mapping> {
        assert!(offset.checked_add(length).is_some_and(|end| end <= self.bytes));
        let protection = match access {
            Access::Read => ProtFlags::READ,
            Access::Write => ProtFlags::READ | ProtFlags::WRITE,
        };
        // SAFETY: a fresh mapping at an address that the kernel chooses; it aliases no Rust object.
        let address = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                length,
                protection,
                MapFlags::SHARED | MapFlags::NORESERVE,
                &self.file,
                offset as u64,
            )?
        };
        let address = NonNull::new(address.cast()).ok_or(io::Errno::FAULT)?;
        Ok(Mapping { address, length })
    }
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
    address: NonNull<u8>,
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
        unsafe { self.address.add(offset) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `address` and `length` are what mmap gave, and all borrows of the mapping have ended.
        // An error would leave the pages mapped until the process ends, which harms nobody.
        let _ = unsafe { rustix::mm::munmap(self.address.as_ptr().cast(), self.length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_cannot_be_resized() {
        let segment = Segment::create(8192).unwrap();
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
    fn released_memory_reads_as_zero() {
        let segment = Segment::create(8192).unwrap();
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
