//! What the serving indexer answers when it was told which query to expect.

mod synthetic;

use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use hindsight_cpu_indexer::parameters::{IndexParameters, Timing};
use hindsight_cpu_indexer::{placement, serve};
use hindsight_protocol::arena::{Arena, ArenaConfig, KvWriter, Pages};
use hindsight_protocol::control::codec;
use hindsight_protocol::control::messages::{FromIndexer, ToIndexer};
use hindsight_protocol::geometry::{Geometry, KvDtype};
use hindsight_protocol::records::{AttentionPolicy, Reply, Request};
use hindsight_protocol::ring::{Patience, Receiver, Sender};
use hindsight_protocol::scheduling::Priority;
use hindsight_protocol::telemetry::{IndexerCounters, TelemetryPage};
use synthetic::Random;

const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const DIM: usize = 32;
const PROMPT: usize = 2048;
const SEEDS: usize = 64;
const TOP_K: u32 = 16;
/// Tokens of two passages that two queries look for, each of two blocks and twice as many as are selected.
const PASSAGES: [Range<usize>; 2] = [160..192, 1200..1232];

/// A text of one layer in an arena, and the worker's end of the rings.
struct Worker<'a> {
    requests: Sender<'a>,
    replies: Receiver<'a>,
    writer: KvWriter,
    slabs: Vec<u32>,
    random: Random,
    directions: [Vec<f32>; 2],
    /// Answers that said that expected queries had misled.
    misled: u64,
}

impl<'a> Worker<'a> {
    fn new(arena: &'a Arena) -> Self {
        let mut random = Random::new(5);
        let directions = [(); 2].map(|()| (0..DIM).map(|_| random.normal()).collect());
        Self {
            requests: arena.query_ring().producer(),
            replies: arena.selection_ring().consumer(),
            writer: arena.writer().unwrap(),
            slabs: Vec::new(),
            random,
            directions,
            misled: 0,
        }
    }

    fn tell(&mut self, request: &Request<'_>) {
        let sent = request.encode(|parts| self.requests.send(parts, Patience::default()));
        assert!(sent.unwrap());
    }

    /// KV head and blocks of the next answer; none if it says that a request is done.
    fn reply(&mut self) -> Option<(u32, Vec<usize>)> {
        loop {
            let Some(record) = self.replies.receive(Patience::default()).unwrap() else { continue };
            return match Reply::decode(record).unwrap() {
                Reply::Selection { kv_head, misled, blocks, .. } => {
                    self.misled += u64::from(misled);
                    let blocks = blocks.iter().map(|selected| selected.block as usize);
                    Some((kv_head, blocks.collect()))
                }
                Reply::Done => None,
                Reply::Refused(refusal) => panic!("{refusal:?}"),
            };
        }
    }

    /// Stores the keys and values of the token at `position`.
    fn store(&mut self, position: usize) {
        let sought = PASSAGES.iter().position(|passage| passage.contains(&position));
        for head in 0..KV_HEADS {
            let mut row = || -> Vec<f32> { (0..DIM).map(|_| 0.3 * self.random.normal()).collect() };
            let (mut key, value) = (row(), row());
            if let Some(passage) = sought {
                for (x, direction) in key.iter_mut().zip(&self.directions[passage]) {
                    *x += 2.0 * direction;
                }
            }
            self.writer.write(&self.slabs, 0, head, position, &key, &value);
        }
    }

    /// Queries of all heads that look for a passage.
    fn query(&mut self, passage: usize) -> Vec<f32> {
        let direction = self.directions[passage].clone();
        direction.repeat(HEADS).iter().map(|x| 2.0 * x + 0.1 * self.random.normal()).collect()
    }

    /// Reads a prompt whose last tokens looked for both passages.
    fn read_prompt(&mut self, arena: &Arena) {
        let (policy, sequence) = (AttentionPolicy::Lfps, 0);
        for request in [
            Request::Open { sequence, policy, top_k: TOP_K },
            Request::Reserve { sequence, tokens: PROMPT as u64 + 8 },
        ] {
            self.ask(&request);
        }
        arena.tables().read_slabs(sequence, &mut self.slabs).unwrap();
        (0..PROMPT).for_each(|position| self.store(position));
        self.tell(&Request::Appended { sequence, layer: 0, position: 0, tokens: PROMPT as u64 });
        for seed in 0..SEEDS {
            let query = self.query(seed % 2);
            self.tell(&Request::Seed {
                sequence,
                layer: 0,
                remaining: (SEEDS - 1 - seed) as u32,
                position: (PROMPT - SEEDS + seed) as u64,
                query: &query,
            });
        }
    }

    /// Has the indexer expect a query that looks for a passage.
    fn rehearse(&mut self, position: usize, expected: usize) {
        let query = self.query(expected);
        let position = position as u64;
        self.tell(&Request::Rehearse { sequence: 0, layer: 0, position, query: &query });
    }

    /// Asks for a query that looks for `passage`: every KV head is answered for, in their order, with blocks of `passage` and
    /// none of the other.
    fn assert_selects(&mut self, position: usize, passage: usize) {
        let query = self.query(passage);
        let at = position as u64;
        self.tell(&Request::Query { sequence: 0, layer: 0, position: at, query: &query });
        for head in 0..KV_HEADS {
            let (kv_head, blocks) = self.reply().expect("a selection");
            assert_eq!(kv_head as usize, head);
            let [sought, other] = [passage, 1 - passage].map(|passage| {
                let Range { start, end } = PASSAGES[passage];
                blocks.iter().any(|block| (start / 16..end / 16).contains(block))
            });
            assert!(sought && !other, "{passage} at {position}: {blocks:?}");
        }
    }

    /// Stores the token at `position`, and says so.
    fn append(&mut self, position: usize) {
        self.store(position);
        let position = position as u64;
        self.tell(&Request::Appended { sequence: 0, layer: 0, position, tokens: 1 });
    }

    /// Asks for something that is done when it is answered.
    fn ask(&mut self, request: &Request<'_>) {
        self.tell(request);
        assert_eq!(self.reply(), None);
    }
}

/// Waits until the indexer has been at work, and has nothing more to do.
fn wait_until_idle(counters: &IndexerCounters) {
    let mut before = 0;
    loop {
        std::thread::sleep(Duration::from_millis(100));
        let now = counters.select_ns.get();
        if now > 0 && now == before {
            return;
        }
        before = now;
    }
}

#[test]
fn the_true_query_is_answered_whatever_was_expected_and_however_late() {
    let geometry = Geometry {
        layers: 1,
        heads: HEADS as u32,
        kv_heads: KV_HEADS as u32,
        head_dim: DIM as u32,
        block_tokens: 16,
        dtype: KvDtype::F16,
    };
    let config = ArenaConfig { geometry, capacity_tokens: 4096, max_selected_blocks: 256 };
    let arena = Arena::create(config).unwrap();
    let page = TelemetryPage::create(&format!("/hindsight-test-rehearsal-{}", std::process::id()))
        .unwrap();
    let (launcher, control) = UnixStream::pair().unwrap();
    // The indexer ends the process when its launcher goes away, also if an assertion fails: then the test would pass.
    let launcher = Box::leak(Box::new(launcher));
    let start = ToIndexer::Start {
        core: placement::allowed_cores()[0],
        shares_core: false,
        priority: Priority::Normal,
        epoch: 1,
        cache_blocks: 256,
        pages: Pages::Small,
        parameters: IndexParameters {
            top_k: TOP_K as usize,
            dense_layers: 0,
            timing: Timing::Rehearsed,
            ..IndexParameters::default()
        },
        telemetry: page.name().to_owned(),
        profile: None,
    };
    codec::write(launcher, &start).unwrap();
    let descriptor = arena.as_fd().try_clone_to_owned().unwrap();
    let indexer = std::thread::spawn(move || serve::run(control, descriptor));
    let ready = codec::read::<FromIndexer>(launcher).unwrap();
    assert!(matches!(ready, Some(FromIndexer::Ready { .. })), "{ready:?}");

    let mut worker = Worker::new(&arena);
    worker.read_prompt(&arena);
    let heads = KV_HEADS as u64;
    let counters = &page.indexer;
    // As expected, and in time.
    worker.rehearse(PROMPT, 0);
    wait_until_idle(counters);
    worker.assert_selects(PROMPT, 0);
    worker.append(PROMPT);
    assert_eq!((counters.rehearsed.get(), counters.misled.get()), (heads, 0));
    // Another than expected.
    worker.rehearse(PROMPT + 1, 0);
    worker.assert_selects(PROMPT + 1, 1);
    worker.append(PROMPT + 1);
    assert_eq!((counters.rehearsed.get(), counters.misled.get()), (heads, heads));
    assert_eq!(worker.misled, heads);
    // Not expected at all, and expected at another step.
    worker.assert_selects(PROMPT + 2, 0);
    worker.append(PROMPT + 2);
    worker.rehearse(PROMPT + 2, 0);
    worker.assert_selects(PROMPT + 3, 1);
    worker.append(PROMPT + 3);
    assert_eq!((counters.rehearsed.get(), counters.misled.get()), (heads, heads));
    assert_eq!(worker.misled, heads);
    // Each step has been looked back at once. A position that comes again, as a prompt's last token, is none.
    let policy = AttentionPolicy::Lfps;
    let last = PROMPT + 3;
    worker.ask(&Request::Rewind { sequence: 0, policy, top_k: TOP_K, tokens: last as u64 });
    assert_eq!(counters.audits.get(), 4);
    worker.append(last);
    worker.assert_selects(last + 1, 0);
    worker.append(last + 1);
    worker.ask(&Request::Reserve { sequence: 0, tokens: PROMPT as u64 + 8 });
    assert_eq!(counters.audits.get(), 5);

    codec::write(launcher, &ToIndexer::<IndexParameters>::Shutdown).unwrap();
    indexer.join().unwrap().unwrap();
}
