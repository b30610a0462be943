//! One reader of cgroups' files for all collectors, with one budget of descriptors.
//!
//! A thread of its own reads, in small portions, what is due, and keeps what each file said last and when. A sweep takes
//! what is there and never opens or reads a file: a file that hangs holds up the thread and nobody else.
//!
//! When a cgroup is read ([`schedule`]): a new one soon and often, since its runtime is still setting it up and it may be
//! gone soon; later every [`TURN`], but not where no sweep would see it.

mod schedule;

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

use self::schedule::{Demand, Schedule};
pub use self::schedule::{STALE_AFTER, TURN};
use crate::{kernel::process, signal::lock};

/// Longer than any of the files.
const TEXT_BYTES: usize = 4096;
/// Descriptors that are left for connections, maps and whatever else.
const OTHER_DESCRIPTORS: usize = 512;

/// A file that is not there is looked for at each turn in a cgroup's first moments, when it may be about to come, and after that
/// every so many turns: to look for one costs four times what reading one does.
const EARLY_MISSES: u32 = 12;
const LOOKS_APART: u32 = 6;

/// The files of one cgroup that a collector reads together.
pub trait Source: Send + 'static {
    /// What they say.
    type Value: Copy + Send;

    /// Reads them. Only the reader's thread calls it.
    fn read(&mut self, turn: &mut Turn) -> Self::Value;

    /// The same where it has been read before and said this: a source that tells a part of it again need not keep it.
    fn read_again(&mut self, turn: &mut Turn, _before: Self::Value) -> Self::Value {
        self.read(turn)
    }

    /// After a reading: how many of the next turns may be left out, since nothing would be read in them.
    fn rest(&self, _now: Instant) -> u32 {
        0
    }
}

/// One reading by the reader's thread.
#[derive(Debug)]
pub struct Turn {
    /// When it began.
    pub now: Instant,
    text: Box<[u8]>,
}

#[cfg(test)]
impl Turn {
    /// A reading that begins then.
    #[must_use]
    pub fn at(now: Instant) -> Self {
        Self { now, text: vec![0; TEXT_BYTES].into_boxed_slice() }
    }
}

/// What a source said last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading<T> {
    /// When it was read.
    pub at: Instant,
    /// What it said.
    pub value: T,
}

/// The reader. Clones are the same one; its thread ends with the last of them.
#[derive(Clone)]
pub struct FileReader {
    shared: Arc<Shared>,
    budget: Arc<Budget>,
    /// That of the file that was made last: a cgroup's files are made one after another, and share it.
    directory: Arc<Mutex<Arc<Path>>>,
    _end: Arc<End>,
}

/// A source in the reader's care, until this is dropped.
pub struct Watch<T> {
    id: u64,
    last: Arc<Mutex<Option<Reading<T>>>>,
    shared: Arc<Shared>,
}

/// One file, kept open within the budget and read anew from its beginning each time; beyond it, opened for each reading.
#[derive(Debug)]
pub struct CgroupFile {
    directory: Arc<Path>,
    name: Box<OsStr>,
    open: Option<Kept>,
    /// How often in a row it was not there.
    missed: u32,
    budget: Arc<Budget>,
}

/// How many more files may be kept open.
#[derive(Debug)]
struct Budget(AtomicUsize);

/// An open file that counts against the budget.
#[derive(Debug)]
struct Kept {
    file: File,
    budget: Arc<Budget>,
}

/// What the thread and everybody else have in common. Nobody holds the lock while a file is read.
#[derive(Default)]
struct Shared {
    inbox: Mutex<Inbox>,
    wake: Condvar,
    stop: AtomicBool,
}

/// Messages for the thread. Never more than there are sources: one that is dropped before the thread has met it leaves
/// no trace.
#[derive(Default)]
struct Inbox {
    next_id: u64,
    arrived: HashMap<u64, Box<dyn Job>>,
    gone: Vec<u64>,
    demand: Demand,
}

/// Ends the thread when it is dropped, without waiting: the thread may hang in a file.
struct End(Arc<Shared>);

/// A source and where its last reading goes.
trait Job: Send {
    /// Gives how many of the next turns may be left out.
    fn run(&mut self, turn: &mut Turn) -> u32;
}

struct Watched<S: Source> {
    source: S,
    last: Arc<Mutex<Option<Reading<S::Value>>>>,
}

impl FileReader {
    /// Starts the thread, and lets this process keep as many files open as it may.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start() -> io::Result<Self> {
        Self::with_budget(process::raise_file_limit().saturating_sub(OTHER_DESCRIPTORS))
    }

    fn with_budget(descriptors: usize) -> io::Result<Self> {
        let reader = Self::without_thread(descriptors);
        let of_thread = Arc::clone(&reader.shared);
        thread::Builder::new().name("cgroup-files".to_owned()).spawn(move || run(&of_thread))?;
        Ok(reader)
    }

    /// One that makes files and reads none, unless a thread comes to it.
    pub(crate) fn without_thread(descriptors: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let budget = Arc::new(Budget(AtomicUsize::new(descriptors)));
        let directory = Arc::new(Mutex::new(Path::new("").into()));
        Self { _end: Arc::new(End(Arc::clone(&shared))), shared, budget, directory }
    }

    /// A file for a source to read.
    #[must_use]
    pub fn file(&self, mut path: PathBuf) -> CgroupFile {
        let name = path.file_name().unwrap_or_default().into();
        path.pop();
        let mut last = lock(&self.directory);
        if **last != *path {
            *last = path.into();
        }
        CgroupFile { directory: Arc::clone(&last), name, open: None, missed: 0, budget: Arc::clone(&self.budget) }
    }

    /// Reads the source from now on, until what is given back is dropped.
    #[must_use]
    pub fn watch<S: Source>(&self, source: S) -> Watch<S::Value> {
        let last = Arc::new(Mutex::new(None));
        let job = Watched { source, last: Arc::clone(&last) };
        let mut inbox = self.shared.inbox();
        let id = inbox.next_id;
        inbox.next_id += 1;
        inbox.arrived.insert(id, Box::new(job));
        drop(inbox);
        self.shared.wake.notify_one();
        Watch { id, last, shared: Arc::clone(&self.shared) }
    }

    /// A sweep takes what is there. From when they come the reader learns when to read.
    pub fn taken(&self, now: Instant) {
        self.shared.inbox().demand.taken(now);
    }
}

impl<T: Copy> Watch<T> {
    /// What it said last; none until it has been read.
    #[must_use]
    pub fn last(&self) -> Option<Reading<T>> {
        *lock(&self.last)
    }

    /// When that was.
    #[must_use]
    pub fn read_at(&self) -> Option<Instant> {
        lock(&self.last).as_ref().map(|reading| reading.at)
    }
}

impl<T> Drop for Watch<T> {
    fn drop(&mut self) {
        let mut inbox = self.shared.inbox();
        if inbox.arrived.remove(&self.id).is_none() {
            inbox.gone.push(self.id);
        }
    }
}

impl CgroupFile {
    /// What `parse` makes of the file as it is now; none if it cannot be read.
    pub fn read<T>(&mut self, turn: &mut Turn, parse: impl Fn(&str) -> T) -> Option<T> {
        let buffer = &mut turn.text;
        if let Some(kept) = &self.open {
            if let Ok(bytes) = kept.file.read_at(buffer, 0) {
                return text(buffer, bytes).map(parse);
            }
            // The cgroup is gone, or its controller was switched off and may come back.
            self.open = None;
        }
        if self.missed >= EARLY_MISSES && !self.missed.is_multiple_of(LOOKS_APART) {
            self.missed = self.missed.wrapping_add(1);
            return None;
        }
        let Ok(file) = File::open(self.directory.join(&*self.name)) else {
            self.missed = self.missed.wrapping_add(1);
            return None;
        };
        self.missed = 0;
        let bytes = file.read_at(buffer, 0).ok()?;
        self.open = Kept::within(file, &self.budget);
        text(buffer, bytes).map(parse)
    }
}

fn text(buffer: &[u8], bytes: usize) -> Option<&str> {
    std::str::from_utf8(buffer.get(..bytes)?).ok()
}

impl Kept {
    fn within(file: File, budget: &Arc<Budget>) -> Option<Self> {
        let less = |left: usize| left.checked_sub(1);
        budget.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).ok()?;
        Some(Self { file, budget: Arc::clone(budget) })
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.budget.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl<S: Source> Job for Watched<S> {
    fn run(&mut self, turn: &mut Turn) -> u32 {
        let before = *lock(&self.last);
        let value = match before {
            Some(before) => self.source.read_again(turn, before.value),
            None => self.source.read(turn),
        };
        *lock(&self.last) = Some(Reading { at: turn.now, value });
        self.source.rest(turn.now)
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
        // Under the lock, so that the thread is not between its look at `stop` and its sleep.
        drop(self.0.inbox());
        self.0.wake.notify_one();
    }
}

impl Shared {
    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        lock(&self.inbox)
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// The thread.
fn run(shared: &Shared) {
    let mut jobs: HashMap<u64, Box<dyn Job>> = HashMap::new();
    let mut schedule = Schedule::new(Instant::now());
    let mut turn = Turn { now: Instant::now(), text: vec![0; TEXT_BYTES].into_boxed_slice() };
    while !shared.is_over() {
        let mut inbox = shared.inbox();
        let now = Instant::now();
        for (id, job) in inbox.arrived.drain() {
            schedule.add(id, now);
            jobs.insert(id, job);
        }
        let mut gone = Vec::new();
        for id in inbox.gone.drain(..) {
            schedule.remove(id);
            gone.extend(jobs.remove(&id));
        }
        let due = schedule.due(now, &inbox.demand);
        if due.is_empty() && gone.is_empty() && !shared.is_over() {
            let _woken = match schedule.next() {
                Some(at) => {
                    let sleep = at.saturating_duration_since(now);
                    shared.wake.wait_timeout(inbox, sleep).unwrap_or_else(PoisonError::into_inner).0
                }
                None => shared.wake.wait(inbox).unwrap_or_else(PoisonError::into_inner),
            };
            continue;
        }
        drop(inbox);
        // Closes their files: not under the lock.
        drop(gone);
        for id in due {
            if shared.is_over() {
                return;
            }
            if let Some(job) = jobs.get_mut(&id) {
                turn.now = Instant::now();
                schedule.rest(id, job.run(&mut turn));
            }
        }
    }
}

#[cfg(test)]
mod tests;
