//! Tests of the reader: what it keeps, how it ends, and that a file that hangs holds up nobody.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{fs, path::Path, process::Command, time::Duration};

use super::*;

/// One number in one file.
struct Number(CgroupFile);

impl Source for Number {
    type Value = Option<u64>;

    fn read(&mut self, turn: &mut Turn) -> Option<u64> {
        self.0.read(turn, |text| text.trim().parse().ok()).flatten()
    }
}

fn turn() -> Turn {
    Turn::at(Instant::now())
}

#[track_caller]
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(20), "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn threads() -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    tasks
        .filter(|task| fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim() == "cgroup-files"))
        .count()
}

/// The tests of this file count threads of this process, so they run one after another.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    lock(&ONE)
}

#[test]
fn a_file_is_kept_open_within_the_budget_and_read_anew_each_time() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("number");
    for budget in [1, 0] {
        let budget = Arc::new(Budget(AtomicUsize::new(budget)));
        let left = || budget.0.load(Ordering::Relaxed);
        let kept = left();
        let (directory, name) = (directory.path().into(), OsStr::new("number").into());
        let mut source = Number(CgroupFile { directory, name, open: None, missed: 0, budget: Arc::clone(&budget) });
        assert_eq!(source.read(&mut turn()), None, "not there yet");
        for number in [5, 70_000] {
            fs::write(&path, format!("{number}\n")).unwrap();
            assert_eq!(source.read(&mut turn()), Some(number));
        }
        assert_eq!((source.0.open.is_some(), left()), (kept == 1, 0));
        drop(source);
        assert_eq!(left(), kept, "what was kept comes back");
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_source_is_read_soon_and_again_and_all_collectors_share_one_budget() {
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let reader = FileReader::with_budget(2).unwrap();
    let path = |number: u64| directory.path().join(number.to_string());
    let write = |number: u64, value: u64| fs::write(path(number), value.to_string()).unwrap();
    (0..3).for_each(|number| write(number, number));
    let of_one_collector = [0, 1].map(|number| reader.watch(Number(reader.file(path(number)))));
    let other = reader.clone();
    let of_another = other.watch(Number(other.file(path(2))));
    let said = |watch: &Watch<Option<u64>>| watch.last().and_then(|reading| reading.value);
    wait_until("three are read", || {
        [0, 1].map(|at: usize| said(of_one_collector.get(at).unwrap())) == [Some(0), Some(1)]
            && said(&of_another) == Some(2)
    });
    assert_eq!(reader.budget.0.load(Ordering::Relaxed), 0, "two are kept open, the third is not");
    (0..3).for_each(|number| write(number, number + 10));
    wait_until("and again", || said(&of_another) == Some(12));
    drop(of_one_collector);
    wait_until("descriptors come back", || reader.budget.0.load(Ordering::Relaxed) >= 1);
}

#[test]
fn one_that_is_gone_before_it_was_met_leaves_no_message() {
    let shared = Arc::new(Shared::default());
    let reader = FileReader {
        shared: Arc::clone(&shared),
        budget: Arc::new(Budget(AtomicUsize::new(0))),
        directory: Arc::new(Mutex::new(Path::new("").into())),
        _end: Arc::new(End(Arc::clone(&shared))),
    };
    drop(reader.watch(Number(reader.file("/nowhere".into()))));
    let inbox = shared.inbox();
    assert_eq!((inbox.arrived.len(), inbox.gone.len()), (0, 0));
}

/// A pipe that nobody writes to: whoever opens it hangs.
fn hanging(directory: &Path) -> PathBuf {
    let path = directory.join("hangs");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    path
}

#[test]
fn a_file_that_hangs_holds_up_nobody_but_the_thread() {
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let reader = FileReader::with_budget(9).unwrap();
    let hangs = hanging(directory.path());
    let (good, number) = (directory.path().join("good"), 7);
    fs::write(&good, number.to_string()).unwrap();
    let before = reader.watch(Number(reader.file(good.clone())));
    wait_until("the good one is read", || before.last().is_some());
    let stuck = reader.watch(Number(reader.file(hangs.clone())));
    thread::sleep(Duration::from_secs(1));
    let began = Instant::now();
    for _ in 0..1000 {
        assert_eq!(before.last().and_then(|reading| reading.value), Some(number), "what was read stays");
        assert_eq!(stuck.last(), None, "what was not read is absent");
        reader.taken(Instant::now());
        drop(reader.watch(Number(reader.file(good.clone()))));
    }
    drop((before, stuck));
    drop(reader);
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(threads(), 1, "it hangs still");
    drop(fs::OpenOptions::new().write(true).open(hangs).unwrap());
    wait_until("the thread ends", || threads() == 0);
}

#[test]
fn the_thread_ends_with_the_last_of_its_readers() {
    let _alone = alone();
    wait_until("no thread of another test", || threads() == 0);
    let reader = FileReader::with_budget(0).unwrap();
    let clone = reader.clone();
    wait_until("it is there", || threads() == 1);
    drop(reader);
    thread::sleep(Duration::from_millis(50));
    assert_eq!(threads(), 1);
    drop(clone);
    wait_until("it ends", || threads() == 0);
}

#[test]
fn a_file_that_is_not_there_is_looked_for_ever_more_seldom_and_found_when_it_comes() {
    let directory = tempfile::tempdir().unwrap();
    let reader = FileReader::with_budget(1).unwrap();
    let path = directory.path().join("number");
    let mut source = Number(reader.file(path.clone()));
    // Of each reading whether it would have found the file.
    let looks: Vec<bool> = (0..36)
        .map(|_| {
            fs::write(&path, "7").unwrap();
            let missed = source.0.missed;
            let found = source.read(&mut turn()).is_some();
            fs::remove_file(&path).unwrap();
            source.0.open = None;
            // As if it had not been there.
            source.0.missed = missed + 1;
            found
        })
        .collect();
    let found: Vec<usize> = looks.iter().enumerate().filter(|(_, found)| **found).map(|(at, _)| at).collect();
    assert_eq!(found, (0..=12).chain([18, 24, 30]).collect::<Vec<_>>());
    fs::write(&path, "8").unwrap();
    let readings = (0..6).filter_map(|_| source.read(&mut turn())).collect::<Vec<_>>();
    assert_eq!(readings.last(), Some(&8));
}
