//! A strict walk over the header of a GGUF file, before anything is allocated by what it states.
//!
//! The parser behind it trusts counts that fit the file, divides by the stated alignment, multiplies dimensions
//! without a check, keeps the last of two equal keys, and spends some thirty bytes on each array element, be it one
//! byte on disk. The walk refuses files that would abuse that.

use std::collections::HashSet;
use std::io::{self, BufRead, Read};
use std::path::Path;

use super::error::GgufError;

const MAGIC: &[u8; 4] = b"GGUF";
const VERSIONS: [u32; 2] = [2, 3];
const DEFAULT_ALIGNMENT: u64 = 32;
const MAX_ALIGNMENT: u64 = 1 << 20;

const MAX_TENSORS: u64 = 1 << 16;
const MAX_KEYS: u64 = 1 << 16;
const MAX_NAME_BYTES: u64 = 1 << 16;
const MAX_STRING_BYTES: u64 = 1 << 24;
/// Over all arrays of the file: a vocabulary of a million tokens needs three million.
const MAX_ARRAY_ELEMENTS: u64 = 1 << 22;
const MAX_ARRAY_DEPTH: u32 = 4;
const MAX_DIMENSIONS: u64 = 4;
const MAX_TENSOR_ELEMENTS: u64 = 1 << 40;

/// The ggml types that the quantised kernels read: number, elements per block, bytes per block.
pub(super) const TENSOR_TYPES: [(u32, u64, u64); 15] = [
    (0, 1, 4),
    (1, 1, 2),
    (2, 32, 18),
    (3, 32, 20),
    (6, 32, 22),
    (7, 32, 24),
    (8, 32, 34),
    (9, 32, 36),
    (10, 256, 84),
    (11, 256, 110),
    (12, 256, 144),
    (13, 256, 176),
    (14, 256, 210),
    (15, 256, 292),
    (30, 1, 2),
];

const TYPE_UINT32: u32 = 4;
const TYPE_BOOL: u32 = 7;
const TYPE_STRING: u32 = 8;
const TYPE_ARRAY: u32 = 9;

/// Walks the header from the start of the file and checks that every tensor lies within the file.
///
/// Returns the length of the header in bytes, without the padding up to the tensor data.
pub(super) fn scan(reader: impl BufRead, path: &Path, file_bytes: u64) -> Result<u64, GgufError> {
    Scan { reader, path, file_bytes, position: 0, elements: 0, alignment: DEFAULT_ALIGNMENT }.run()
}

struct Scan<'a, R> {
    reader: R,
    path: &'a Path,
    file_bytes: u64,
    position: u64,
    /// Array elements so far, over the whole file.
    elements: u64,
    alignment: u64,
}

struct Extent {
    tensor: String,
    offset: u64,
    bytes: u64,
}

impl<R: BufRead> Scan<'_, R> {
    fn run(mut self) -> Result<u64, GgufError> {
        self.magic_and_version()?;
        let tensors = self.count("the number of tensors", MAX_TENSORS)?;
        let keys = self.count("the number of metadata keys", MAX_KEYS)?;
        self.metadata(keys)?;
        let extents = self.tensors(tensors)?;
        self.check_extents(&extents)?;
        Ok(self.position)
    }

    fn magic_and_version(&mut self) -> Result<(), GgufError> {
        let available = self.file_bytes.min(MAGIC.len() as u64) as usize;
        let mut magic = [0; MAGIC.len()];
        self.fill("the magic bytes", &mut magic[..available])?;
        if &magic != MAGIC {
            let found = match &magic[..available] {
                [] => "nothing: it is empty".to_owned(),
                bytes => format!("\"{}\"", bytes.escape_ascii()),
            };
            return Err(GgufError::NotGguf { path: self.path.to_owned(), found });
        }
        let version = self.u32("the version")?;
        if VERSIONS.contains(&version) {
            Ok(())
        } else {
            Err(GgufError::UnsupportedVersion { path: self.path.to_owned(), version })
        }
    }

    fn metadata(&mut self, keys: u64) -> Result<(), GgufError> {
        let mut seen = HashSet::new();
        for _ in 0..keys {
            let key = self.name("a metadata key")?;
            let value_type = self.u32("the type of a metadata value")?;
            if key == "general.alignment" {
                self.read_alignment(value_type)?;
            } else {
                self.value(&key, value_type, 0)?;
            }
            if !seen.insert(key.clone()) {
                return Err(self.malformed(format!("the metadata key {key} comes twice")));
            }
        }
        Ok(())
    }

    fn read_alignment(&mut self, value_type: u32) -> Result<(), GgufError> {
        if value_type != TYPE_UINT32 {
            return Err(self.malformed("general.alignment is not a 32-bit number".into()));
        }
        self.alignment = self.u32("general.alignment")?.into();
        self.at_most("general.alignment", self.alignment, MAX_ALIGNMENT)?;
        if self.alignment.is_power_of_two() {
            Ok(())
        } else {
            Err(self.malformed(format!("general.alignment {} is no power of two", self.alignment)))
        }
    }

    fn value(&mut self, key: &str, value_type: u32, depth: u32) -> Result<(), GgufError> {
        match value_type {
            TYPE_STRING => {
                let bytes = self.u64("the length of a string")?;
                self.at_most(&format!("the length of {key}"), bytes, MAX_STRING_BYTES)?;
                self.skip(key, bytes)
            }
            TYPE_ARRAY => self.array(key, depth),
            TYPE_BOOL => match self.bytes::<1>(key)? {
                [0 | 1] => Ok(()),
                [other] => Err(self.malformed(format!("{key} is the truth value {other}"))),
            },
            scalar => {
                let bytes = scalar_bytes(scalar).ok_or_else(|| {
                    self.malformed(format!("{key} has the unknown type {scalar}"))
                })?;
                self.skip(key, bytes)
            }
        }
    }

    fn array(&mut self, key: &str, depth: u32) -> Result<(), GgufError> {
        if depth == MAX_ARRAY_DEPTH {
            return Err(self.malformed(format!("{key} nests arrays deeper than {MAX_ARRAY_DEPTH}")));
        }
        let element_type = self.u32("the type of array elements")?;
        let length = self.u64("the length of an array")?;
        self.elements = self.elements.saturating_add(length);
        self.at_most(&format!("the length of {key}"), self.elements, MAX_ARRAY_ELEMENTS)?;
        match scalar_bytes(element_type) {
            Some(bytes) => self.skip(key, bytes * length),
            None => (0..length).try_for_each(|_| self.value(key, element_type, depth + 1)),
        }
    }

    fn tensors(&mut self, count: u64) -> Result<Vec<Extent>, GgufError> {
        let mut seen = HashSet::new();
        let mut extents = Vec::new();
        for _ in 0..count {
            let extent = self.tensor()?;
            if !seen.insert(extent.tensor.clone()) {
                return Err(self.malformed(format!("the tensor {} comes twice", extent.tensor)));
            }
            extents.push(extent);
        }
        Ok(extents)
    }

    fn tensor(&mut self) -> Result<Extent, GgufError> {
        let tensor = self.name("a tensor's name")?;
        let dimensions = self.u32("the number of dimensions")?.into();
        self.at_most(&format!("the number of dimensions of {tensor}"), dimensions, MAX_DIMENSIONS)?;
        let shape =
            (0..dimensions).map(|_| self.u64("a dimension")).collect::<Result<Vec<_>, _>>()?;
        let Some(&row) = shape.first() else {
            return Err(self.malformed(format!("tensor {tensor} has no dimensions")));
        };
        let elements = shape.iter().fold(1, |product: u64, size| product.saturating_mul(*size));
        self.at_most(&format!("the size of {tensor}"), elements, MAX_TENSOR_ELEMENTS)?;
        let ggml_type = self.u32("a tensor's type")?;
        let offset = self.u64("a tensor's offset")?;

        let known = TENSOR_TYPES.iter().find(|(number, ..)| *number == ggml_type);
        let Some((_, block_elements, block_bytes)) = known else {
            return Err(GgufError::UnsupportedTensorType {
                path: self.path.to_owned(),
                tensor,
                ggml_type,
            });
        };
        if elements == 0 || !row.is_multiple_of(*block_elements) {
            return Err(self.malformed(format!(
                "tensor {tensor} has the shape {shape:?} in blocks of {block_elements}"
            )));
        }
        Ok(Extent { tensor, offset, bytes: elements / block_elements * block_bytes })
    }

    fn check_extents(&self, extents: &[Extent]) -> Result<(), GgufError> {
        let data = self.position.next_multiple_of(self.alignment);
        for Extent { tensor, offset, bytes } in extents {
            if !offset.is_multiple_of(self.alignment) {
                return Err(self.malformed(format!(
                    "tensor {tensor} begins at {offset}, no multiple of {}",
                    self.alignment
                )));
            }
            let end = data.saturating_add(*offset).saturating_add(*bytes);
            if end > self.file_bytes {
                return Err(self.truncated(&format!("tensor {tensor}"), end));
            }
        }
        Ok(())
    }

    fn count(&mut self, what: &str, limit: u64) -> Result<u64, GgufError> {
        let value = self.u64(what)?;
        self.at_most(what, value, limit)?;
        Ok(value)
    }

    fn name(&mut self, what: &str) -> Result<String, GgufError> {
        let length = self.u64(what)?;
        self.at_most(&format!("the length of {what}"), length, MAX_NAME_BYTES)?;
        let mut name = vec![0; length as usize];
        self.fill(what, &mut name)?;
        String::from_utf8(name).map_err(|_| self.malformed(format!("{what} is not UTF-8")))
    }

    fn u32(&mut self, what: &str) -> Result<u32, GgufError> {
        self.bytes(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64, GgufError> {
        self.bytes(what).map(u64::from_le_bytes)
    }

    fn bytes<const N: usize>(&mut self, what: &str) -> Result<[u8; N], GgufError> {
        let mut bytes = [0; N];
        self.fill(what, &mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, what: &str, bytes: &mut [u8]) -> Result<(), GgufError> {
        let end = self.reserve(what, bytes.len() as u64)?;
        self.reader.read_exact(bytes).map_err(|e| self.io(e))?;
        self.position = end;
        Ok(())
    }

    fn skip(&mut self, what: &str, bytes: u64) -> Result<(), GgufError> {
        let end = self.reserve(what, bytes)?;
        let bytes = end - self.position;
        let skipped = io::copy(&mut self.reader.by_ref().take(bytes), &mut io::sink());
        if skipped.map_err(|e| self.io(e))? < bytes {
            return Err(self.io(io::ErrorKind::UnexpectedEof.into()));
        }
        self.position = end;
        Ok(())
    }

    /// The position after `bytes` more, which must not lie beyond the end of the file.
    fn reserve(&self, what: &str, bytes: u64) -> Result<u64, GgufError> {
        let end = self.position.saturating_add(bytes);
        if end > self.file_bytes { Err(self.truncated(what, end)) } else { Ok(end) }
    }

    fn at_most(&self, what: &str, value: u64, limit: u64) -> Result<(), GgufError> {
        if value <= limit {
            return Ok(());
        }
        let (path, what) = (self.path.to_owned(), what.to_owned());
        Err(GgufError::Absurd { path, what, value, limit })
    }

    fn truncated(&self, what: &str, needed: u64) -> GgufError {
        let (path, what) = (self.path.to_owned(), what.to_owned());
        GgufError::Truncated { path, what, needed, found: self.file_bytes }
    }

    fn malformed(&self, reason: String) -> GgufError {
        GgufError::Malformed { path: self.path.to_owned(), reason }
    }

    fn io(&self, source: io::Error) -> GgufError {
        GgufError::Io { path: self.path.to_owned(), source }
    }
}

/// Bytes of a value of fixed size; none for strings, arrays, truth values (which have a rule) and unknown types.
fn scalar_bytes(value_type: u32) -> Option<u64> {
    match value_type {
        0 | 1 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}
