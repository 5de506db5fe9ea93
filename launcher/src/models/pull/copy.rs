//! Copying a stream while hashing it.

use std::fmt::Write as _;
use std::io::{self, Read, Write};

use sha2::{Digest, Sha256};

use super::Cancel;

const BUFFER_BYTES: usize = 256 * 1024;

/// What [`copy_hashed`] copied.
pub(super) struct Copied {
    pub(super) bytes: u64,
    /// Lower-case hexadecimal.
    pub(super) sha256: String,
}

/// Which side of a copy failed.
#[derive(Debug)]
pub(super) enum CopyError {
    Read(io::Error),
    Write(io::Error),
    Cancelled,
}

/// Copies `reader` to `writer` to the end; `tick` hears the bytes so far after each piece.
pub(super) fn copy_hashed(
    reader: &mut dyn Read,
    writer: &mut dyn Write,
    cancel: &Cancel,
    mut tick: impl FnMut(u64),
) -> Result<Copied, CopyError> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut hasher = Sha256::new();
    let mut bytes = 0;
    loop {
        if cancel.is_cancelled() {
            return Err(CopyError::Cancelled);
        }
        let piece = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => &buffer[..count],
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(CopyError::Read(e)),
        };
        hasher.update(piece);
        writer.write_all(piece).map_err(CopyError::Write)?;
        bytes += piece.len() as u64;
        tick(bytes);
    }
    Ok(Copied { bytes, sha256: hex(&hasher.finalize()) })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_that_of_the_bytes() {
        let mut out = Vec::new();
        let copied = copy_hashed(&mut &b"abc"[..], &mut out, &Cancel::default(), |_| {}).unwrap();
        assert_eq!((copied.bytes, out.as_slice()), (3, &b"abc"[..]));
        assert_eq!(
            copied.sha256,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn a_cancelled_copy_stops() {
        let cancel = Cancel::default();
        cancel.cancel();
        let copied = copy_hashed(&mut io::repeat(0), &mut io::sink(), &cancel, |_| {});
        assert!(matches!(copied, Err(CopyError::Cancelled)));
    }
}
