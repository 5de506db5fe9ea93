//! Frames: length, version, message.
//!
//! ```text
//! ┌ u32 length of the message ┬ u8 version ┬ message (bincode) ┐
//! ```
//! Everything about the encoding is behind this module, so that it can be replaced.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Version of the frames and of the messages in them.
pub const VERSION: u8 = 1;
/// Bytes before the message.
pub const HEADER_BYTES: usize = 5;
/// The longest message: a prompt of several million tokens.
pub const MAX_MESSAGE_BYTES: usize = 32 << 20;

/// A frame that cannot be sent or understood.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The stream failed.
    #[error("the control connection failed: {0}")]
    Io(#[from] io::Error),
    /// The peer speaks another version.
    #[error(
        "the peer speaks version {found} of the control protocol, this build version {VERSION}"
    )]
    Version {
        /// The peer's version.
        found: u8,
    },
    /// The message is too long.
    #[error("a control message of {length} bytes exceeds the limit of {MAX_MESSAGE_BYTES}")]
    TooLong {
        /// Its length.
        length: usize,
    },
    /// The message is malformed.
    #[error("malformed control message: {0}")]
    Malformed(String),
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<MAX_MESSAGE_BYTES>()
}

/// Encodes `message` as a whole frame.
///
/// # Errors
/// [`CodecError::TooLong`], or [`CodecError::Malformed`] if the message cannot be encoded.
pub fn encode(message: &impl Serialize) -> Result<Vec<u8>, CodecError> {
    let mut frame = vec![0; HEADER_BYTES];
    bincode::serde::encode_into_std_write(message, &mut frame, config())
        .map_err(|error| CodecError::Malformed(error.to_string()))?;
    let length = frame.len() - HEADER_BYTES;
    if length > MAX_MESSAGE_BYTES {
        return Err(CodecError::TooLong { length });
    }
    let length = u32::try_from(length).map_err(|_| CodecError::TooLong { length })?;
    frame[..4].copy_from_slice(&length.to_le_bytes());
    frame[4] = VERSION;
    Ok(frame)
}

/// Length of the message that follows `header`.
///
/// # Errors
/// [`CodecError::Version`] or [`CodecError::TooLong`].
pub fn message_length(header: [u8; HEADER_BYTES]) -> Result<usize, CodecError> {
    let [a, b, c, d, version] = header;
    if version != VERSION {
        return Err(CodecError::Version { found: version });
    }
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    if length > MAX_MESSAGE_BYTES { Err(CodecError::TooLong { length }) } else { Ok(length) }
}

/// Decodes a message; bytes left over are an error.
///
/// # Errors
/// [`CodecError::Malformed`].
pub fn decode<T: DeserializeOwned>(message: &[u8]) -> Result<T, CodecError> {
    let (value, used) = bincode::serde::decode_from_slice(message, config())
        .map_err(|error| CodecError::Malformed(error.to_string()))?;
    if used == message.len() {
        Ok(value)
    } else {
        Err(CodecError::Malformed(format!("{} bytes left over", message.len() - used)))
    }
}

/// Writes one frame.
///
/// # Errors
/// As [`encode`], or [`CodecError::Io`].
pub fn write(stream: &mut impl Write, message: &impl Serialize) -> Result<(), CodecError> {
    stream.write_all(&encode(message)?)?;
    Ok(stream.flush()?)
}

/// Reads one frame; `None` if the peer closed the connection between frames.
///
/// # Errors
/// [`CodecError`].
pub fn read<T: DeserializeOwned>(stream: &mut impl Read) -> Result<Option<T>, CodecError> {
    let mut header = [0; HEADER_BYTES];
    let mut filled = 0;
    while filled < HEADER_BYTES {
        match stream.read(&mut header[filled..]) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
    let mut message = vec![0; message_length(header)?];
    stream.read_exact(&mut message)?;
    decode(&message).map(Some)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn frames_follow_each_other_until_the_end() {
        let mut stream = Vec::new();
        write(&mut stream, &("prefill", 7_u32)).unwrap();
        write(&mut stream, &("decode", 8_u32)).unwrap();
        let mut reader = stream.as_slice();
        let mut next = || read::<(String, u32)>(&mut reader).unwrap();
        assert_eq!(next(), Some(("prefill".to_owned(), 7)));
        assert_eq!(next(), Some(("decode".to_owned(), 8)));
        assert_eq!(next(), None);
    }

    #[test]
    fn another_version_a_long_frame_and_trailing_bytes_are_refused() {
        let mut frame = encode(&1_u32).unwrap();
        frame[4] = 9;
        assert!(matches!(
            read::<u32>(&mut frame.as_slice()),
            Err(CodecError::Version { found: 9 })
        ));
        let long = [0xff, 0xff, 0xff, 0xff, VERSION];
        assert!(matches!(message_length(long), Err(CodecError::TooLong { .. })));
        assert!(matches!(decode::<u8>(&[1, 2]), Err(CodecError::Malformed(_))));
    }

    proptest! {
        /// A hostile stream gives a value, an end or an error, without taking memory that it did not send.
        #[test]
        fn any_stream_is_read_or_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if bytes.len() > 4 {
                bytes[2] = 0;
                bytes[3] = 0;
                bytes[4] = VERSION;
            }
            let _ = read::<Vec<String>>(&mut bytes.as_slice());
        }
    }
}
