//! What a process did when, written to a file of the run's profile.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write};
use std::path::Path;

use bincode::config;
use bincode::error::DecodeError;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// What a process was doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activity {
    /// The worker read a chunk of the prompt; bytes are those of its keys and values.
    Prefill,
    /// The worker took a decode step.
    Step,
    /// The worker stored the new token's key and value of a layer.
    Append,
    /// The worker sent the queries of a layer.
    Query,
    /// The worker waited for the selection of a KV head.
    Wait,
    /// The worker attended: to one KV head's selection, or to every key of a layer.
    Attend,
    /// The worker chose the next token.
    Sample,
    /// The indexer selected for a KV head; bytes are those of the blocks that have to travel.
    Select,
    /// The indexer selected for the next step.
    Prepare,
    /// The indexer checked a selection against an exact scan.
    Audit,
    /// The indexer took in keys or queries of the prompt.
    Learn,
    /// The GPU gathered blocks that its cache lacked; bytes are theirs.
    GpuGather,
    /// The GPU copied a part of a layer's keys and values that only passes through; bytes are its size.
    GpuCopy,
    /// The GPU stored new keys and values; bytes are those that went to host memory.
    GpuAppend,
    /// The GPU attended to blocks that its cache held already.
    GpuAttendHits,
    /// The GPU attended to blocks that had been gathered.
    GpuAttendMisses,
    /// The GPU attended one token to a dense layer, or to a part that passes through.
    GpuAttendAll,
    /// The GPU attended a prompt's chunk to a dense layer, to a part that passes through, or to itself.
    GpuPrefill,
}

/// A queue of a GPU: what is in it is done in order, beside what is in another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GpuStream {
    /// Brings keys and values from host memory.
    Copy,
    /// Stores and attends.
    Compute,
}

impl Activity {
    /// The GPU's stream that it happened on; none for what the host did.
    #[must_use]
    pub const fn gpu_stream(self) -> Option<GpuStream> {
        match self {
            Self::GpuGather | Self::GpuCopy => Some(GpuStream::Copy),
            Self::GpuAppend
            | Self::GpuAttendHits
            | Self::GpuAttendMisses
            | Self::GpuAttendAll
            | Self::GpuPrefill => Some(GpuStream::Compute),
            _ => None,
        }
    }
}

/// Something that a process did, from one moment to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// What.
    pub activity: Activity,
    /// When it began, in nanoseconds of the system's monotonic clock, which all processes share.
    pub began_ns: u64,
    /// When it ended.
    pub ended_ns: u64,
    /// Where and how much.
    pub detail: Detail,
}

impl Event {
    /// How long it lasted.
    #[must_use]
    pub const fn nanoseconds(&self) -> u64 {
        self.ended_ns.saturating_sub(self.began_ns)
    }
}

/// Where in a text and a model, and how much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Detail {
    /// Position of the token.
    pub position: u64,
    /// The layer, if it was about one.
    pub layer: Option<u32>,
    /// The KV head, if it was about one.
    pub kv_head: Option<u32>,
    /// Bytes that travelled, or would have with a device of its own.
    pub bytes: u64,
    /// Blocks that the worker's cache held already.
    pub hit_blocks: u32,
    /// Blocks that had to travel.
    pub miss_blocks: u32,
    /// Whether more was read than usual, as the query had drifted.
    pub repaired: bool,
}

/// The moment at which something began; none where nothing is recorded.
#[derive(Debug, Clone, Copy)]
pub struct Moment(Option<u64>);

/// Writes events to a file, or does nothing: not even the clock is asked then.
#[derive(Debug, Default)]
pub struct Recorder {
    file: Option<BufWriter<File>>,
    failure: Option<io::Error>,
}

impl Recorder {
    /// A recorder into the file at `path`, if there is one.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn new(path: Option<&Path>) -> io::Result<Self> {
        let file = path.map(File::create).transpose()?;
        Ok(Self { file: file.map(|file| BufWriter::with_capacity(1 << 16, file)), failure: None })
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Moment {
        Moment(self.file.is_some().then(now))
    }

    /// Whether events are recorded.
    #[must_use]
    pub const fn is_recording(&self) -> bool {
        self.file.is_some()
    }

    /// Records what has been done since a moment.
    pub fn record(&mut self, activity: Activity, since: Moment, detail: Detail) {
        if let Some(began_ns) = since.0 {
            self.record_event(Event { activity, began_ns, ended_ns: now(), detail });
        }
    }

    /// Records what was done at a time that has been found out otherwise.
    pub fn record_event(&mut self, event: Event) {
        let Some(file) = &mut self.file else { return };
        if let Err(error) = bincode::serde::encode_into_std_write(event, file, config::standard()) {
            // What comes after a gap cannot be read.
            self.failure = Some(io::Error::other(error));
            self.file = None;
        }
    }

    /// Writes what is still on its way.
    ///
    /// # Errors
    /// Some of the events could not be written.
    pub fn finish(&mut self) -> io::Result<()> {
        match self.failure.take() {
            Some(failure) => Err(failure),
            None => self.file.as_mut().map_or(Ok(()), Write::flush),
        }
    }
}

/// Nanoseconds of the system's monotonic clock.
#[must_use]
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    let part = |number: i64| u64::try_from(number).unwrap_or(0);
    part(time.tv_sec) * 1_000_000_000 + part(time.tv_nsec)
}

/// The events in the file at `path`, in the order in which they were recorded.
///
/// # Errors
/// The file cannot be read, or holds something else.
pub fn read(path: &Path) -> io::Result<Vec<Event>> {
    let mut file = BufReader::new(File::open(path)?);
    let mut events = Vec::new();
    loop {
        match bincode::serde::decode_from_std_read(&mut file, config::standard()) {
            Ok(event) => events.push(event),
            Err(DecodeError::Io { inner, .. }) if inner.kind() == io::ErrorKind::UnexpectedEof => {
                return Ok(events);
            }
            Err(error) => return Err(io::Error::other(format!("{}: {error}", path.display()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_back_as_they_were_recorded() {
        let directory =
            std::env::temp_dir().join(format!("hindsight-profile-{}", std::process::id()));
        let mut recorder = Recorder::new(Some(&directory)).unwrap();
        let detail = Detail { position: 7, layer: Some(3), bytes: 4096, ..Detail::default() };
        for _ in 0..3 {
            let since = recorder.now();
            recorder.record(Activity::Select, since, detail);
        }
        recorder.finish().unwrap();
        let events = read(&directory).unwrap();
        std::fs::remove_file(&directory).unwrap();
        assert_eq!(events.len(), 3);
        assert!(
            events.iter().all(|event| event.detail == detail && event.began_ns <= event.ended_ns)
        );
        assert!(events.is_sorted_by_key(|event| event.ended_ns));
    }

    #[test]
    fn an_event_keeps_the_time_that_it_is_given() {
        let file =
            std::env::temp_dir().join(format!("hindsight-profile-gpu-{}", std::process::id()));
        let mut recorder = Recorder::new(Some(&file)).unwrap();
        let activity = Activity::GpuGather;
        let event = Event { activity, began_ns: 5, ended_ns: 9, detail: Detail::default() };
        recorder.record_event(event);
        recorder.finish().unwrap();
        let events = read(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        assert_eq!(events, [event]);
        assert_eq!(event.activity.gpu_stream(), Some(GpuStream::Copy));
    }

    #[test]
    fn without_a_file_nothing_happens() {
        let mut recorder = Recorder::new(None).unwrap();
        let since = recorder.now();
        assert!(since.0.is_none());
        recorder.record(Activity::Step, since, Detail::default());
        recorder.finish().unwrap();
    }
}
