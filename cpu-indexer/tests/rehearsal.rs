//! What the serving indexer answers when it was told which query to expect, and the query is another one.

mod synthetic;

use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use hindsight_cpu_indexer::parameters::{IndexParameters, Timing};
use hindsight_cpu_indexer::{placement, serve};
use hindsight_protocol::arena::{Arena, ArenaConfig, KvWriter, Pages};
use hindsight_protocol::control::codec;
use hindsight_protocol::control::messages::{FromIndexer, ToIndexer};
use hindsight_protocol::geometry::{Geometry, KvDtype};
use hindsight_protocol::records::{AttentionPolicy, Reply, Request};
use hindsight_protocol::ring::{Patience, Receiver, Sender};
use hindsight_protocol::scheduling::Priority;
use hindsight_protocol::telemetry::TelemetryPage;
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
        }
    }

    fn tell(&mut self, request: &Request<'_>) {
        let sent = request.encode(|parts| self.requests.send(parts, Patience::default()));
        assert!(sent.unwrap());
    }

    /// KV head and blocks of the next answer, and whether it is one to an expected query; none if it says that a request
    /// is done.
    fn reply(&mut self) -> Option<(u32, bool, Vec<usize>)> {
        loop {
            let Some(record) = self.replies.receive(Patience::default()).unwrap() else { continue };
            return match Reply::decode(record).unwrap() {
                Reply::Selection { kv_head, expected, blocks, .. } => {
                    let blocks = blocks.iter().map(|selected| selected.block as usize);
                    Some((kv_head, expected, blocks.collect()))
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
            self.tell(&request);
            assert_eq!(self.reply(), None);
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

    /// Has the indexer select for a query that looks for the passage `expected`.
    fn rehearse(&mut self, position: usize, expected: usize) {
        let query = self.query(expected);
        self.tell(&Request::Rehearse {
            sequence: 0,
            layer: 0,
            position: position as u64,
            query: &query,
        });
        self.assert_answered(true, expected);
    }

    /// Asks for a query that looks for `passage`.
    fn select(&mut self, position: usize, passage: usize, anew: bool) {
        self.store(position);
        let query = self.query(passage);
        let position = position as u64;
        self.tell(&Request::Select { sequence: 0, layer: 0, position, anew, query: &query });
    }

    /// Every KV head is answered for, in their order, with blocks of `passage` and none of the other.
    fn assert_answered(&mut self, expected: bool, passage: usize) {
        for head in 0..KV_HEADS {
            let (kv_head, to_expected, blocks) = self.reply().expect("a selection");
            assert_eq!((kv_head as usize, to_expected), (head, expected));
            let [sought, other] = [passage, 1 - passage].map(|passage| {
                let Range { start, end } = PASSAGES[passage];
                blocks.iter().any(|block| (start / 16..end / 16).contains(block))
            });
            assert!(sought && !other, "{blocks:?}");
        }
    }
}

#[test]
fn a_query_unlike_the_expected_one_is_answered_anew() {
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
    // As expected: nothing more is answered.
    worker.rehearse(PROMPT, 0);
    worker.select(PROMPT, 0, false);
    // Another than expected.
    worker.rehearse(PROMPT + 1, 0);
    worker.select(PROMPT + 1, 1, true);
    worker.assert_answered(false, 1);

    assert_eq!(page.indexer.rehearsed.get(), KV_HEADS as u64);
    assert_eq!(page.indexer.misled.get(), KV_HEADS as u64);
    codec::write(launcher, &ToIndexer::<IndexParameters>::Shutdown).unwrap();
    indexer.join().unwrap().unwrap();
}
