//! Every order in which tasks can go through both programs, as the kernel calls them and leaves them out: a model in which each
//! access to shared memory is one step and any other task may come between two of them, on the same CPU or another one.
//!
//! Interrupts, and kernels that do not put programs off, are some of these orders. The programs are the real ones: a run is
//! done anew from its beginning with what its accesses have given so far, up to the next one.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use std::{
    cell::{Cell, RefCell},
    collections::HashSet,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
};

use super::{BUCKETS, Bucket, NOTES, bucket_of, leave, note, socket_of, take_off};
use crate::{claim::Users, tcp::state};

/// One change of a socket's state, and on which CPUs its task is when the kernel calls the first and the second program.
#[derive(Clone, Copy, Debug)]
struct Change {
    socket: usize,
    new: u32,
    cpus: [usize; 2],
}

const fn change(socket: usize, new: u32, cpus: [usize; 2]) -> Change {
    Change { socket, new, cpus }
}

/// Addresses of sockets, as far apart as they are.
const fn address(socket: usize) -> u64 {
    0xffff_8881_0000_0000 + 0x1000 * socket as u64
}

const SOCKETS: usize = 10;
const CPUS: usize = 2;
const TASKS: usize = 3;

/// What all tasks share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Memory {
    users: u64,
    notes: [u64; NOTES],
    states: [u32; SOCKETS],
    /// By program and CPU: the kernel's count of who is in it.
    active: [[u32; CPUS]; 2],
    missed_by_first: u64,
    left: u64,
    stood_in: u64,
}

/// Where a task is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Task {
    /// How many of its changes are over.
    over: usize,
    /// Which program it is at, and whether it is inside.
    second: bool,
    inside: bool,
    /// What the accesses of the present run have given.
    given: Vec<u64>,
    /// The present change was taken.
    taken: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    memory: Memory,
    tasks: [Task; TASKS],
    /// Changes that are over and were not taken.
    lost: u64,
}

#[derive(Clone, Copy, Debug)]
enum Access {
    Add(u64),
    Count,
    Read(usize),
    Write(usize, u64),
    State(u64),
}

impl Memory {
    fn serve(&mut self, access: Access) -> u64 {
        match access {
            Access::Add(amount) => {
                self.users = self.users.wrapping_add(amount);
                0
            }
            Access::Count => self.users,
            Access::Read(place) => self.notes[place],
            Access::Write(place, note) => {
                self.notes[place] = note;
                0
            }
            Access::State(socket) => {
                let of = (0..SOCKETS).find(|at| address(*at) == socket);
                self.states[of.expect("a note of a socket that there is")].into()
            }
        }
    }
}

/// A run that was begun anew: what its accesses have given, and the next one.
struct Run<'a> {
    given: &'a [u64],
    at: Cell<usize>,
    next: RefCell<Option<Access>>,
}

impl Run<'_> {
    fn access(&self, access: Access) -> u64 {
        let at = self.at.get();
        self.at.set(at + 1);
        if let Some(given) = self.given.get(at) {
            return *given;
        }
        *self.next.borrow_mut() = Some(access);
        resume_unwind(Box::new(()))
    }
}

impl Users for Run<'_> {
    fn add(&self, amount: u64) {
        self.access(Access::Add(amount));
    }

    fn count(&self) -> u64 {
        self.access(Access::Count)
    }
}

impl Bucket for Run<'_> {
    fn read(&self, place: usize) -> u64 {
        self.access(Access::Read(place))
    }

    fn write(&self, place: usize, note: u64) {
        self.access(Access::Write(place, note));
    }

    fn state_of(&self, socket: u64) -> u32 {
        u32::try_from(self.access(Access::State(socket))).unwrap()
    }
}

/// What a program does next: an access, or its end and what it says.
fn next(second: bool, of: Change, given: &[u64]) -> Result<Access, bool> {
    let run = Run { given, at: Cell::new(0), next: RefCell::new(None) };
    let note = note(address(of.socket), of.new);
    let act = || if second { take_off(&run, note) } else { leave(&run, note) };
    match catch_unwind(AssertUnwindSafe(act)) {
        Ok(said) => Err(said),
        Err(_) => Ok(run.next.borrow_mut().take().unwrap()),
    }
}

impl World {
    /// The world after one step of a task; none if it has nothing left to do.
    fn after(&self, number: usize, changes: &[&[Change]; TASKS]) -> Option<Self> {
        let mut world = self.clone();
        let World { memory, tasks, lost } = &mut world;
        let task = &mut tasks[number];
        let of = *changes[number].get(task.over)?;
        let cpu = of.cpus[usize::from(task.second)];
        let active = &mut memory.active[usize::from(task.second)][cpu];
        if task.inside {
            let said = match next(task.second, of, &task.given) {
                Ok(access) => {
                    let given = memory.serve(access);
                    task.given.push(given);
                    return Some(world);
                }
                Err(said) => said,
            };
            *active = 0;
            task.inside = false;
            task.given.clear();
            let takes = said != task.second;
            assert!(!(takes && task.taken), "a change counts twice: {of:?}");
            task.taken |= takes;
            memory.left += u64::from(!task.second && !takes);
            memory.stood_in += u64::from(task.second && takes);
        } else {
            // The kernel counts who is in it, and leaves it out for all but one.
            if *active == 0 {
                *active = 1;
                task.inside = true;
                return Some(world);
            }
            memory.missed_by_first += u64::from(!task.second);
        }
        if !task.second {
            task.second = true;
            return Some(world);
        }
        // Now the kernel writes the new state.
        memory.states[of.socket] = of.new;
        *lost += u64::from(!task.taken);
        *task = Task { over: task.over + 1, ..Task::default() };
        Some(world)
    }
}

/// What was found at the ends of all orders.
#[derive(Debug, Default)]
struct Found {
    worlds: usize,
    /// The most that were lost in one order, and in one in which nobody found the bucket claimed.
    lost: u64,
    lost_alone: u64,
    /// The most that the first program has left, and that the second has taken.
    left: u64,
    stood_in: u64,
}

/// Who may come in the middle of whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// Any task in that of any other one.
    Any,
    /// A later one in that of an earlier one, which then waits for its end: interrupts.
    Interrupts,
}

impl World {
    /// The tasks that may go on.
    fn may_go_on(&self, order: Order) -> std::ops::Range<usize> {
        let is_begun = |task: &Task| task.inside || task.second;
        let last = self.tasks.iter().rposition(is_begun).filter(|_| order == Order::Interrupts);
        last.unwrap_or(0)..TASKS
    }
}

/// Goes through all orders; `notes` stand there from before.
fn check(order: Order, notes: [u64; NOTES], states: [u32; SOCKETS], changes: [&[Change]; TASKS]) -> Found {
    let memory = Memory { users: 0, notes, states, active: [[0; CPUS]; 2], missed_by_first: 0, left: 0, stood_in: 0 };
    let mut open = vec![World { memory, tasks: Default::default(), lost: 0 }];
    let mut seen: HashSet<World> = HashSet::new();
    let mut found = Found::default();
    while let Some(world) = open.pop() {
        if !seen.insert(world.clone()) {
            continue;
        }
        let next: Vec<World> = world.may_go_on(order).filter_map(|number| world.after(number, &changes)).collect();
        if next.is_empty() {
            let Memory { missed_by_first, left, stood_in, users, .. } = world.memory;
            assert_eq!(world.lost, missed_by_first + left - stood_in, "what is lost is a number");
            assert_eq!(users, 0, "nobody is at work in the bucket");
            found.lost = found.lost.max(world.lost);
            if left == 0 {
                found.lost_alone = found.lost_alone.max(world.lost);
            }
            found.left = found.left.max(left);
            found.stood_in = found.stood_in.max(stood_in);
        }
        open.extend(next);
    }
    found.worlds = seen.len();
    println!("{found:?}");
    found
}

const EMPTY: [u64; NOTES] = [0; NOTES];
const OPEN: [u32; SOCKETS] = [state::ESTABLISHED; SOCKETS];

#[test]
fn no_change_counts_twice_whoever_comes_in_the_middle_of_whom() {
    let here = [0, 0];
    let found = check(
        Order::Any,
        EMPTY,
        OPEN,
        [&[change(0, state::CLOSE, here)], &[change(1, state::CLOSE, here)], &[change(2, state::CLOSE, here)]],
    );
    assert!(found.stood_in > 0 && found.lost > 0, "both programs are left out in some order: {found:?}");
    // Two tasks can find both programs in use as well, but no interrupt can.
    let two: [&[Change]; TASKS] = [&[change(0, state::CLOSE, here)], &[change(1, state::CLOSE, here)], &[]];
    let found = check(Order::Interrupts, EMPTY, OPEN, two);
    assert!(found.stood_in > 0 && found.lost_alone == 0, "what the one is left out for the other takes: {found:?}");
    assert!(check(Order::Any, EMPTY, OPEN, two).lost_alone == 1);
}

#[test]
fn no_change_counts_twice_whose_task_goes_on_on_another_cpu() {
    let found = check(
        Order::Any,
        EMPTY,
        OPEN,
        [&[change(0, state::CLOSE, [0, 1])], &[change(1, state::CLOSE, [1, 0])], &[change(2, state::CLOSE, [1, 1])]],
    );
    assert!(found.left > 0, "two CPUs come to one bucket at once: {found:?}");
}

#[test]
fn no_change_counts_twice_of_a_socket_that_changes_again_and_again() {
    check(
        Order::Any,
        EMPTY,
        OPEN,
        [
            &[change(0, state::FIN_WAIT_1, [0, 1]), change(0, state::CLOSE, [0, 0])],
            &[change(1, state::CLOSE_WAIT, [0, 0]), change(1, state::CLOSE_WAIT, [1, 0])],
            &[],
        ],
    );
}

#[test]
fn a_full_bucket_gives_way_only_where_a_note_is_over() {
    // Left behind by changes for which the second program was left out.
    let full: [u64; NOTES] = std::array::from_fn(|at| note(address(3 + at), state::CLOSE));
    let tasks: [&[Change]; TASKS] = [&[change(0, state::CLOSE, [0, 1])], &[change(1, state::CLOSE, [1, 1])], &[]];
    let found = check(Order::Any, full, OPEN, tasks);
    assert!(found.left >= 2 && found.stood_in >= 2, "none is over: the second program takes all: {found:?}");
    let mut one_over = OPEN;
    one_over[5] = state::CLOSE;
    check(Order::Any, full, one_over, tasks);
    // The socket whose note is over changes at this very moment, in the end to the same state once more.
    let again: [&[Change]; TASKS] = [
        &[change(0, state::CLOSE, [0, 1])],
        &[change(5, state::ESTABLISHED, [1, 1]), change(5, state::CLOSE, [1, 0])],
        &[],
    ];
    check(Order::Any, full, one_over, again);
}

#[test]
fn a_note_holds_the_whole_address_and_all_sockets_of_a_slab_are_spread() {
    for socket in [address(0), address(9), 0xff11_0000_dead_be40, 0xffff_ffff_ffff_ffc0] {
        for new in 1..=12 {
            assert_eq!(socket_of(note(socket, new)), socket);
        }
    }
    let buckets: HashSet<u32> = (0..1000).map(|at| bucket_of(0xffff_8881_0000_0000 + 0x980 * at)).collect();
    assert!(buckets.len() > 400, "{} of {BUCKETS}", buckets.len());
}
