//! The vectors of a measurement as files, so that other programs can be measured over the same ones.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Error, Write};
use std::path::{Path, PathBuf};

use hindsight_cpu_indexer::bench::{BenchEvent, IndexBenchRow, Workload};
use hindsight_cpu_indexer::parameters::IndexParameters;
use serde::Serialize;

/// What is exported of one context.
///
/// * `keys.npy`: float32 [KV heads, tokens, head_dim], exactly the 16-bit keys;
/// * `queries.npy`: float32 [steps, KV heads, group, head_dim], as they are before the softmax scale;
/// * `exact.npy`, `lfps.npy`, `history.npy`: int32 [steps, KV heads, top-k], the tokens that each selected between sink and
///   window, ascending, filled up with -1;
/// * `bench.json`: a [`Description`].
#[derive(Debug)]
pub(super) struct Export {
    directory: PathBuf,
    repeat: usize,
    selections: BTreeMap<&'static str, Vec<Vec<u32>>>,
    times: BTreeMap<&'static str, Vec<f64>>,
}

/// What must be known to use the vectors.
#[derive(Debug, Serialize)]
struct Description<'d> {
    /// Tokens that the first step sees; each further one sees one more.
    first_step_tokens: usize,
    softmax_scale: f32,
    parameters: &'d IndexParameters,
    memory_bandwidth_gb_per_s: f64,
    /// Microseconds of each step that counts, in the order of repeats, steps and KV heads.
    times_us: &'d BTreeMap<&'static str, Vec<f64>>,
    row: &'d IndexBenchRow,
}

impl Export {
    /// Will write into `directory`, which is made if it is not there.
    pub(super) fn new(directory: &Path) -> Result<Self, Error> {
        std::fs::create_dir_all(directory)?;
        Ok(Self {
            directory: directory.to_owned(),
            repeat: 0,
            selections: BTreeMap::new(),
            times: BTreeMap::new(),
        })
    }

    /// Takes note of what happens. Selections are the same at each repeat.
    pub(super) fn hear(&mut self, event: BenchEvent<'_>) {
        match event {
            BenchEvent::Seeding => {}
            BenchEvent::Repeat(repeat) => self.repeat = repeat,
            BenchEvent::Step { contender, microseconds, selection } => {
                self.times.entry(contender).or_default().push(microseconds);
                if self.repeat == 0 {
                    self.selections.entry(contender).or_default().push(selection.tokens.clone());
                }
            }
        }
    }

    /// Writes the files.
    pub(super) fn write(
        &self,
        workload: &Workload,
        warm_up: usize,
        row: &IndexBenchRow,
        parameters: &IndexParameters,
        bandwidth: f64,
    ) -> Result<(), Error> {
        let shape = workload.shape();
        let (heads, group) = (shape.kv_heads as usize, shape.group as usize);
        let dim = shape.head_dim as usize;
        let steps = workload.steps() - warm_up;
        let mut keys = self.array("keys", "<f4", &[heads, shape.context, dim])?;
        for head in 0..heads {
            for token in 0..shape.context {
                for element in workload.key(head, token) {
                    keys.write_all(&element.to_le_bytes())?;
                }
            }
        }
        keys.flush()?;
        let mut queries = self.array("queries", "<f4", &[steps, heads, group, dim])?;
        for step in warm_up..workload.steps() {
            for head in 0..heads {
                for element in workload.queries(step, head) {
                    queries.write_all(&element.to_le_bytes())?;
                }
            }
        }
        queries.flush()?;
        for (contender, selections) in &self.selections {
            let mut file = self.array(contender, "<i4", &[steps, heads, row.top_k])?;
            for tokens in selections {
                let numbers = tokens.iter().map(|&token| token.to_le_bytes());
                let missing = std::iter::repeat((-1_i32).to_le_bytes());
                for bytes in numbers.chain(missing).take(row.top_k) {
                    file.write_all(&bytes)?;
                }
            }
            file.flush()?;
        }
        let description = Description {
            first_step_tokens: workload.prompt_tokens() + warm_up + 1,
            softmax_scale: workload.softmax_scale(),
            parameters,
            memory_bandwidth_gb_per_s: bandwidth,
            times_us: &self.times,
            row,
        };
        let json = serde_json::to_vec(&description)?;
        std::fs::write(self.directory.join("bench.json"), json)
    }

    /// A NumPy file of the given type and shape, written up to where its elements go.
    fn array(&self, name: &str, dtype: &str, shape: &[usize]) -> Result<BufWriter<File>, Error> {
        let path = self.directory.join(name).with_extension("npy");
        let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
        file.write_all(&npy_header(dtype, shape))?;
        Ok(file)
    }
}

/// The header of a NumPy file, version 1.0, padded to a multiple of 64 bytes.
fn npy_header(dtype: &str, shape: &[usize]) -> Vec<u8> {
    const PREAMBLE: usize = 10;
    let shape: String = shape.iter().map(|length| format!("{length}, ")).collect();
    let mut text = format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': ({shape}), }}");
    let length = (PREAMBLE + text.len() + 1).next_multiple_of(64) - PREAMBLE;
    text.extend(std::iter::repeat_n(' ', length - text.len() - 1));
    text.push('\n');
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend(u16::try_from(length).expect("few dimensions fit").to_le_bytes());
    header.extend(text.bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_what_numpy_reads() {
        let header = npy_header("<f4", &[2, 3]);
        assert_eq!(header.len() % 64, 0);
        assert_eq!(usize::from(header[8]) + 256 * usize::from(header[9]) + 10, header.len());
        let text = std::str::from_utf8(&header[10..]).unwrap();
        assert!(text.starts_with("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3, ), }"));
        assert!(text.ends_with(" \n"));
    }
}
