//! Threads that share out the small tasks of a decode step: they spin for the next ones instead of being woken.
//!
//! A step has hundreds of moments at which work is shared out, each of some ten microseconds: waking a sleeping thread takes
//! longer than that.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::utils::CachePadded;
use hindsight_protocol::ring::{Doorbell, Patience};

use super::Parallel;

/// How often a helper looks out for work before it sleeps: for longer than what lies between two decode steps.
const LOOKS_FOR_WORK: u32 = 100_000;
/// A helper that has looked out for so long.
const SLEEP: Patience = Patience { spins: 0, sleep: Duration::from_millis(100) };
/// A helper that keeps the caller waiting for so long has been put off its core in the midst of a task.
const STALL: Duration = Duration::from_micros(500);
/// Looks at a helper's task before the clock is asked.
const LOOKS: u32 = 2_000;
/// Rounds of work that go without helpers after a stall; each further stall doubles it.
const FIRST_REST: u32 = 256;
const LONGEST_REST: u32 = 1 << 12;

/// The caller and its helpers.
#[derive(Debug)]
pub struct Team {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
}

/// Somebody who lends a helper the core that it runs on, sleeping meanwhile.
pub trait Lender: Send + Sync {
    /// Rung for the lender.
    fn bell(&self) -> &Doorbell;
}

/// A helper before it starts.
pub struct Helper<S> {
    /// What it does first, to go to its core for example.
    pub start: S,
    /// Whose core it is. Between two tasks the helper sees whether the lender wants it back.
    pub lender: Option<Arc<dyn Lender>>,
}

impl<S> Helper<S> {
    /// A helper whose core is the team's own.
    pub const fn new(start: S) -> Self {
        Self { start, lender: None }
    }
}

/// What a round is to do with each number.
struct Round<'r> {
    task: &'r (dyn Fn(usize) + Sync),
}

#[derive(Debug)]
struct Shared {
    /// The round's number (32 bits), its tasks (16 bits), and the next of them to be taken (16 bits).
    ticket: CachePadded<AtomicU64>,
    /// Tasks of the round that are done.
    done: CachePadded<AtomicUsize>,
    /// The [`Round`] at hand. Valid while a task of the round has been taken and is not done.
    round: AtomicPtr<()>,
    /// A caller is at work: there is one round at a time.
    busy: AtomicBool,
    panicked: AtomicBool,
    ended: AtomicBool,
    /// One for each helper.
    bells: Vec<Doorbell>,
    stalls: AtomicU64,
    /// Rounds that still go without helpers.
    resting: AtomicU32,
    rest: AtomicU32,
}

const fn ticket(round: u32, tasks: u16) -> u64 {
    (round as u64) << 32 | (tasks as u64) << 16
}

impl Shared {
    fn has_tasks(&self) -> bool {
        let [_, _, tasks, next] = parts(self.ticket.load(Ordering::Relaxed));
        next < tasks
    }

    /// Takes the next task of the round at hand, if one is left.
    fn take(&self) -> Option<usize> {
        let mut seen = self.ticket.load(Ordering::Acquire);
        loop {
            let [_, _, tasks, next] = parts(seen);
            if next >= tasks {
                return None;
            }
            // A ticket never comes again: if it is still the same, the round is, and the task is nobody else's.
            let taken = self.ticket.compare_exchange_weak(
                seen,
                seen + 1,
                Ordering::AcqRel,
                Ordering::Acquire,
            );
            match taken {
                Ok(_) => return Some(next.into()),
                Err(now) => seen = now,
            }
        }
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Does tasks until the team ends.
    fn serve(&self, bell: &Doorbell, lender: Option<&dyn Lender>) {
        while !self.has_ended() {
            let watch = lender.map(|lender| lender.bell().watch());
            let mut looks = 0;
            while looks < LOOKS_FOR_WORK && !self.has_ended() {
                if let Some(watch) = &watch {
                    watch.look();
                }
                if self.help() {
                    looks = 0;
                } else {
                    looks += 1;
                    std::hint::spin_loop();
                }
            }
            drop(watch);
            while !bell.wait(SLEEP, || self.has_tasks() || self.has_ended()) {}
        }
    }

    /// Does a task, if one is left.
    fn help(&self) -> bool {
        let task = self.take();
        if let Some(task) = task {
            let round = self.round.load(Ordering::Relaxed).cast::<Round<'_>>();
            // SAFETY: the task was taken from the round's ticket, which was published after the pointer. The caller
            // keeps the round alive until every task of it is done, and this one is not.
            let round = unsafe { &*round };
            if catch_unwind(AssertUnwindSafe(|| (round.task)(task))).is_err() {
                self.panicked.store(true, Ordering::Relaxed);
            }
            self.done.fetch_add(1, Ordering::Release);
        }
        task.is_some()
    }
}

/// The four quarters of a ticket.
#[expect(clippy::cast_possible_truncation, reason = "each is a quarter")]
const fn parts(ticket: u64) -> [u16; 4] {
    [(ticket >> 48) as u16, (ticket >> 32) as u16, (ticket >> 16) as u16, ticket as u16]
}

impl Team {
    /// The calling thread with `helpers`.
    ///
    /// # Errors
    /// The system refused a thread, or a helper its start.
    pub fn new<S, E>(helpers: Vec<Helper<S>>) -> Result<Self, E>
    where
        S: FnOnce() -> Result<(), E> + Send + 'static,
        E: From<std::io::Error> + Send + 'static,
    {
        let shared = Arc::new(Shared {
            ticket: CachePadded::new(AtomicU64::new(0)),
            done: CachePadded::new(AtomicUsize::new(0)),
            round: AtomicPtr::new(std::ptr::null_mut()),
            busy: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            bells: helpers.iter().map(|_| Doorbell::new()).collect(),
            stalls: AtomicU64::new(0),
            resting: AtomicU32::new(0),
            rest: AtomicU32::new(FIRST_REST),
        });
        let mut team = Self { shared, helpers: Vec::new() };
        let (sender, started) = std::sync::mpsc::channel();
        for (number, Helper { start, lender }) in helpers.into_iter().enumerate() {
            let (shared, sender) = (Arc::clone(&team.shared), sender.clone());
            let helper =
                std::thread::Builder::new().name(format!("decode-{number}")).spawn(move || {
                    let ready = start();
                    let stays = ready.is_ok();
                    // The caller waits for it, unless another helper has failed.
                    let _ = sender.send(ready);
                    if stays {
                        shared.serve(&shared.bells[number], lender.as_deref());
                    }
                })?;
            team.helpers.push(helper);
        }
        for _ in 0..team.helpers.len() {
            started.recv().expect("every helper reports")?;
        }
        Ok(team)
    }

    /// How often a helper has kept the caller waiting, since it was last asked.
    pub fn take_stalls(&self) -> u64 {
        self.shared.stalls.swap(0, Ordering::Relaxed)
    }

    /// Whether the caller works alone in this round.
    fn rests(&self) -> bool {
        let resting = self.shared.resting.load(Ordering::Relaxed);
        if resting > 0 {
            self.shared.resting.store(resting - 1, Ordering::Relaxed);
        }
        resting > 0
    }

    /// Waits for tasks that helpers have taken. If one has lost its core meanwhile, the next rounds go without helpers.
    fn wait_for(&self, tasks: usize) {
        let Shared { done, stalls, resting, rest, .. } = &*self.shared;
        let complete = || done.load(Ordering::Acquire) == tasks;
        for _ in 0..LOOKS {
            if complete() {
                return;
            }
            std::hint::spin_loop();
        }
        let since = Instant::now();
        while !complete() {
            std::hint::spin_loop();
        }
        if since.elapsed() > STALL {
            stalls.fetch_add(1, Ordering::Relaxed);
            let rounds = rest.load(Ordering::Relaxed);
            resting.store(rounds, Ordering::Relaxed);
            rest.store((2 * rounds).min(LONGEST_REST), Ordering::Relaxed);
        }
    }
}

/// Ends a round, whatever becomes of the caller's own tasks.
struct Finish<'t> {
    team: &'t Team,
    /// Tasks that the caller has taken.
    own: usize,
    tasks: usize,
}

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        let mut own = self.own;
        // Tasks are left only if one of the caller's has panicked.
        while self.team.shared.take().is_some() {
            own += 1;
        }
        self.team.wait_for(self.tasks - own);
        self.team.shared.busy.store(false, Ordering::Release);
    }
}

impl Parallel for Team {
    fn threads(&self) -> usize {
        1 + self.helpers.len()
    }

    /// Rounds of one task, of more than 65,535, and those within another round are done by the caller alone.
    fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        let shared = &*self.shared;
        let number = u16::try_from(tasks).unwrap_or(0);
        let alone = number < 2 || self.helpers.is_empty() || self.rests();
        if alone || shared.busy.swap(true, Ordering::Acquire) {
            return (0..tasks).for_each(task);
        }
        let round = Round { task };
        shared.round.store((&raw const round).cast_mut().cast(), Ordering::Relaxed);
        shared.done.store(0, Ordering::Relaxed);
        let last = (shared.ticket.load(Ordering::Relaxed) >> 32) as u32;
        shared.ticket.store(ticket(last.wrapping_add(1), number), Ordering::Release);
        let mut finish = Finish { team: self, own: 0, tasks };
        shared.bells.iter().for_each(Doorbell::ring);
        while let Some(number) = shared.take() {
            finish.own += 1;
            task(number);
        }
        drop(finish);
        assert!(!shared.panicked.swap(false, Ordering::Relaxed), "a helper's task panicked");
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        self.shared.bells.iter().for_each(Doorbell::ring);
        for helper in self.helpers.drain(..) {
            // A helper only ends by itself; its tasks' panics have been passed on.
            let _ = helper.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU8;

    use super::*;

    fn team(helpers: usize) -> Team {
        let start = || Ok::<(), std::io::Error>(());
        let helper = || Helper::new(start);
        Team::new(std::iter::repeat_with(helper).take(helpers).collect()).unwrap()
    }

    #[test]
    fn every_task_of_every_round_is_done_once() {
        for helpers in 0..4 {
            let team = team(helpers);
            for round in 0..3_000_usize {
                let tasks = round * 7 % 40;
                let done: Vec<AtomicU8> = (0..tasks).map(|_| AtomicU8::new(0)).collect();
                team.run(tasks, &|task| {
                    done[task].fetch_add(1, Ordering::Relaxed);
                });
                assert!(done.iter().all(|done| done.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn helpers_that_sleep_are_woken() {
        let team = team(1);
        std::thread::sleep(Duration::from_millis(300));
        let caller = std::thread::current().id();
        let helped = AtomicBool::new(false);
        let patient = Instant::now();
        while !helped.load(Ordering::Relaxed) && patient.elapsed() < Duration::from_secs(20) {
            team.run(2, &|_| {
                helped.fetch_or(std::thread::current().id() != caller, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
            });
        }
        assert!(helped.into_inner());
    }

    #[test]
    fn rounds_within_rounds_and_of_several_callers_are_done_too() {
        let team = team(2);
        let done = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    team.run(10, &|_| {
                        team.run(10, &|_| {
                            done.fetch_add(1, Ordering::Relaxed);
                        });
                    });
                });
            }
        });
        assert_eq!(done.into_inner(), 300);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_works_on() {
        let team = team(2);
        for bad in 0..8 {
            let round = || team.run(8, &|task| assert!(task != bad, "task {task}"));
            assert!(catch_unwind(AssertUnwindSafe(round)).is_err());
            let done = AtomicUsize::new(0);
            team.run(8, &|_| {
                done.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(done.into_inner(), 8);
        }
    }

    #[test]
    fn a_helper_that_lost_its_core_is_left_to_itself_for_a_while() {
        let team = team(1);
        let caller = std::thread::current().id();
        while team.take_stalls() == 0 {
            team.run(2, &|_| {
                let helper = std::thread::current().id() != caller;
                std::thread::sleep(Duration::from_millis(if helper { 20 } else { 2 }));
            });
        }
        for _ in 0..FIRST_REST {
            team.run(2, &|_| assert_eq!(std::thread::current().id(), caller));
        }
    }

    #[derive(Debug)]
    struct Sleeper(Doorbell);

    impl Lender for Sleeper {
        fn bell(&self) -> &Doorbell {
            &self.0
        }
    }

    /// A team whose only helper runs on the core of somebody who sleeps.
    fn borrowing_team() -> (Team, Arc<Sleeper>) {
        let sleeper = Arc::new(Sleeper(Doorbell::new()));
        let lender = Some(Arc::clone(&sleeper) as Arc<dyn Lender>);
        let start = || Ok::<_, std::io::Error>(());
        (Team::new(vec![Helper { start, lender }]).unwrap(), sleeper)
    }

    /// Rings for the lender, and has it woken while `work` is done again and again.
    fn wake_while(sleeper: &Sleeper, mut work: impl FnMut()) {
        let (asked, awake) = (AtomicBool::new(false), AtomicBool::new(false));
        let patience = Patience { spins: 0, sleep: Duration::from_secs(60) };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                assert!(sleeper.bell().wait(patience, || asked.load(Ordering::Acquire)));
                awake.store(true, Ordering::Release);
            });
            let since = Instant::now();
            while since.elapsed() < Duration::from_millis(20) {
                work();
            }
            asked.store(true, Ordering::Release);
            sleeper.bell().ring();
            while !awake.load(Ordering::Acquire) {
                assert!(since.elapsed() < Duration::from_secs(30), "nobody has woken the lender");
                work();
            }
        });
    }

    #[test]
    fn a_helper_wakes_the_lender_of_its_core_between_two_tasks() {
        let (team, sleeper) = borrowing_team();
        let done = AtomicUsize::new(0);
        wake_while(&sleeper, || {
            team.run(100, &|_| {
                done.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert!(done.into_inner().is_multiple_of(100));
    }

    #[test]
    fn a_lender_is_woken_though_the_helper_sleeps_or_has_ended() {
        let (team, sleeper) = borrowing_team();
        // Longer than a helper looks out for work.
        std::thread::sleep(Duration::from_millis(80));
        wake_while(&sleeper, || std::thread::sleep(Duration::from_millis(1)));
        drop(team);
        wake_while(&sleeper, || std::thread::sleep(Duration::from_millis(1)));
    }

    #[test]
    fn a_helper_that_cannot_start_is_an_error() {
        let start = || Err(std::io::Error::other("no core"));
        let failure = Team::new::<_, std::io::Error>(vec![Helper::new(start)]);
        assert_eq!(failure.unwrap_err().to_string(), "no core");
    }
}
