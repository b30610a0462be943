//! The grammar of cgroups' paths that both sides follow: what one name denotes, and which of the names on the way up
//! from a cgroup are its pod and its container.
//!
//! The kernel programs go up from a cgroup, name by name, with [`denoted`] and [`Lineage`]: that decides the causes
//! `self`, `pod`, `neighbor` and `system` of a wait. The daemon goes down the path with the same [`denoted`]
//! (agent/src/attribution/path), and its tests compare both ways over generated paths. What a pod, a container or a
//! unit is called is not decided here.

/// Longest name of a directory, in bytes: the kernel's `NAME_MAX`.
pub const NAME_BYTES: usize = 255;

/// Nothing that is known.
pub const OTHER: u32 = 0;
/// `kubepods-burstable-podUID.slice`: a pod's own slice.
pub const POD_SLICE: u32 = 1;
/// `podUID`: a pod's own directory if the kubelet's directories are above it.
pub const POD_DIRECTORY: u32 = 2;
/// `kubepods-podUID.slice:PREFIX:ID`: a container of a pod, named by a runtime that takes systemd's notation for a
/// directory's name.
pub const POD_CONTAINER: u32 = 3;
/// `PREFIX-ID.scope` or `PREFIX-ID`: a container.
pub const CONTAINER: u32 = 4;
/// 64 hexadecimal digits: a container unless Podman's directory is above it.
pub const BARE_ID: u32 = 5;
/// A container in a form that occurs only outside pods: `NAME.slice:PREFIX:ID`, or the 32 digits of a task of Amazon
/// ECS and the number of its container.
pub const STANDALONE: u32 = 6;
/// A systemd unit that has no units below it.
pub const UNIT: u32 = 7;
/// A slice of systemd.
pub const SLICE: u32 = 8;
/// `user@UID.service`: a user's manager, which has units of its own.
pub const MANAGER: u32 = 9;
/// `kubepods`: all pods.
pub const PODS: u32 = 10;
/// `burstable` or `besteffort`: all pods of that class, if it is in `kubepods`.
pub const CLASS: u32 = 11;
/// `libpod_parent`: Podman's, in which a bare id is a Podman pod.
pub const PODMAN_PARENT: u32 = 12;

/// What a path says of whose its cgroup is, in rising order: that it is no container's.
pub const IN_NO_CONTAINER: u32 = 0;
/// That it is a container's outside pods.
pub const IN_CONTAINER: u32 = 1;
/// That it is a pod's.
pub const IN_POD: u32 = 2;

/// One name of a path, by its bytes.
pub trait Name {
    /// Its length in bytes.
    fn bytes(&self) -> usize;

    /// The byte at an index; any byte where the name has none.
    fn byte(&self, index: usize) -> u8;

    /// The byte so far behind another. Apart from [`Self::byte`] for a kernel program, whose verifier wants to see a
    /// loop's own number count.
    #[inline(always)]
    fn byte_behind(&self, from: usize, index: usize) -> u8 {
        self.byte(from + index)
    }

    /// Whether all bytes from `from` to before `to` are of a class. As [`last_colon`].
    #[inline(always)]
    fn all(&self, from: usize, to: usize, class: u32) -> bool {
        all(self, from, to, class)
    }

    /// [`is_pod`]. As [`last_colon`].
    #[inline(always)]
    fn is_pod(&self, end: usize) -> bool {
        is_pod(self, end)
    }

    /// [`last_colon`]. A kernel program goes through a function that the verifier proves once.
    #[inline(always)]
    fn last_colon(&self, end: usize) -> usize {
        last_colon(self, end)
    }

    /// [`last_pod`]. As above.
    #[inline(always)]
    fn last_pod(&self, end: usize) -> usize {
        last_pod(self, end)
    }
}

impl Name for &str {
    #[inline(always)]
    fn bytes(&self) -> usize {
        self.len()
    }

    #[inline(always)]
    fn byte(&self, index: usize) -> u8 {
        self.as_bytes().get(index).copied().unwrap_or(0)
    }
}

/// The text of up to eight bytes from `from` on, in one word.
const fn packed(mut text: &[u8], from: usize) -> u64 {
    let (mut word, mut index) = (0, 0);
    while index < from + 8 {
        let [byte, rest @ ..] = text else { break };
        if index >= from {
            word |= (*byte as u64) << (8 * (index - from));
        }
        (text, index) = (rest, index + 1);
    }
    word
}

#[inline(always)]
fn word<N: Name + ?Sized>(name: &N, at: usize, bytes: usize) -> u64 {
    let (mut word, mut index) = (0, 0);
    while index < 8 {
        if index < bytes {
            word |= u64::from(name.byte(at + index)) << (8 * index);
        }
        index += 1;
    }
    word
}

/// Whether a name has that text of up to 16 bytes at an index. The text becomes numbers in the program: a kernel
/// program has no memory for constants.
macro_rules! spells {
    ($name:expr, $at:expr, $text:literal) => {{
        const TEXT: &[u8] = $text;
        const LOW: u64 = packed(TEXT, 0);
        const HIGH: u64 = packed(TEXT, 8);
        const MORE: usize = TEXT.len().saturating_sub(8);
        word($name, $at, TEXT.len()) == LOW && (MORE == 0 || word($name, $at + 8, MORE) == HIGH)
    }};
}

/// Whether a name ends so, with something before that.
macro_rules! ends {
    ($name:expr, $text:literal) => {{
        const BYTES: usize = $text.len();
        $name.bytes() > BYTES && spells!($name, $name.bytes() - BYTES, $text)
    }};
}

/// Whether a name is that.
macro_rules! is {
    ($name:expr, $text:literal) => {
        $name.bytes() == $text.len() && spells!($name, 0, $text)
    };
}

/// What a cgroup is by its name alone. No directory can have a longer name than [`NAME_BYTES`].
#[must_use]
pub fn kind(name: &str) -> u32 {
    if name.len() > NAME_BYTES { OTHER } else { denoted(&name) }
}

/// The same for a name of at most [`NAME_BYTES`]. Its length is not compared with that: the compiler would take the
/// bounds out of the loops, which the verifier has to see.
#[inline(always)]
#[must_use]
pub fn denoted<N: Name + ?Sized>(name: &N) -> u32 {
    let bytes = name.bytes();
    if bytes > 3 && spells!(name, 0, b"pod") && name.all(3, bytes, DIRECTORY_UID) {
        return POD_DIRECTORY;
    }
    let is_scope = ends!(name, b".scope");
    let end = if is_scope { bytes - 6 } else { bytes };
    if end >= 64 && name.all(end - 64, end, HEXADECIMAL) {
        if bytes == 64 {
            return BARE_ID;
        }
        if end > 65 && name.byte(end - 65) == b'-' && is_engine(name, 0, end - 65) {
            return CONTAINER;
        }
        if end > 65 && !is_scope && name.byte(end - 65) == b':' {
            return mixed(name, end - 65);
        }
    }
    if is_ecs_container(name) {
        return STANDALONE;
    }
    if ends!(name, b".slice") {
        return if name.is_pod(bytes - 6) { POD_SLICE } else { SLICE };
    }
    if ends!(name, b".service") {
        let is_manager = bytes > 13 && spells!(name, 0, b"user@") && name.all(5, bytes - 8, DIGITS);
        return if is_manager { MANAGER } else { UNIT };
    }
    if is_scope || ends!(name, b".socket") || ends!(name, b".mount") || ends!(name, b".swap") {
        return UNIT;
    }
    if is!(name, b"kubepods") {
        return PODS;
    }
    if is!(name, b"burstable") || is!(name, b"besteffort") {
        return CLASS;
    }
    if is!(name, b"libpod_parent") { PODMAN_PARENT } else { OTHER }
}

/// The end of the last colon before `end`; 0 for none.
#[inline(always)]
#[must_use]
pub fn last_colon<N: Name + ?Sized>(name: &N, end: usize) -> usize {
    let (mut index, mut found) = (0, 0);
    while index < NAME_BYTES && index < end {
        if name.byte(index) == b':' {
            found = index + 1;
        }
        index += 1;
    }
    found
}

/// The end of the last `-pod` before `end`; 0 for none.
#[inline(always)]
#[must_use]
pub fn last_pod<N: Name + ?Sized>(name: &N, end: usize) -> usize {
    let (mut index, mut found) = (0, 0);
    while index < NAME_BYTES && index + 4 <= end {
        if spells!(name, index, b"-pod") {
            found = index + 4;
        }
        index += 1;
    }
    found
}

/// A name that ends with `:ID` at `colon`: `SLICE:PREFIX:ID`.
#[inline(always)]
fn mixed<N: Name + ?Sized>(name: &N, colon: usize) -> u32 {
    let prefix = name.last_colon(colon);
    // Its colon and a slice before that.
    if prefix < 8 || !spells!(name, prefix - 7, b".slice") {
        return OTHER;
    }
    if name.is_pod(prefix - 7) {
        POD_CONTAINER
    } else if colon > prefix && is_engine(name, prefix, colon - prefix) {
        STANDALONE
    } else {
        OTHER
    }
}

/// Whether the part before `end` is `kubepods-podUID`, with a class between and with any prefix that a cgroup root set
/// for the kubelet puts before it. In a slice's name a dash means a level, so the kubelet writes the uid's dashes as
/// underscores.
#[inline(always)]
#[must_use]
pub fn is_pod<N: Name + ?Sized>(name: &N, end: usize) -> bool {
    let uid = name.last_pod(end);
    if uid < 12 || uid >= end || !name.all(uid, end, SLICE_UID) {
        return false;
    }
    let head = uid - 4;
    let root = if head > 10 && spells!(name, head - 10, b"-burstable") {
        head - 10
    } else if head > 11 && spells!(name, head - 11, b"-besteffort") {
        head - 11
    } else {
        head
    };
    root >= 8 && spells!(name, root - 8, b"kubepods") && (root == 8 || name.byte(root - 9) == b'-')
}

/// Whether the name has there the prefix that an engine puts before a container's id. Monitors of CRI-O and Podman
/// (`crio-conmon`, `libpod-conmon`) carry the id of a container but are none.
#[inline(always)]
fn is_engine<N: Name + ?Sized>(name: &N, at: usize, bytes: usize) -> bool {
    match bytes {
        4 => spells!(name, at, b"crio"),
        6 => spells!(name, at, b"docker") || spells!(name, at, b"libpod"),
        7 => spells!(name, at, b"nerdctl"),
        14 => spells!(name, at, b"cri-containerd"),
        _ => false,
    }
}

/// 32 hexadecimal digits, a dash, 8 to 10 digits.
#[inline(always)]
fn is_ecs_container<N: Name + ?Sized>(name: &N) -> bool {
    let bytes = name.bytes();
    (41..=43).contains(&bytes) && name.byte(32) == b'-' && name.all(0, 32, HEXADECIMAL) && name.all(33, bytes, DIGITS)
}

/// Decimal digits.
pub const DIGITS: u32 = 1;
/// Digits as ids have them.
pub const HEXADECIMAL: u32 = 2;
/// What a uid in a directory's name is made of.
pub const DIRECTORY_UID: u32 = 4;
/// What a uid in a slice's name is made of.
pub const SLICE_UID: u32 = 8;

/// Whether all bytes from `from` to before `to` are of a class.
#[inline(always)]
#[must_use]
pub fn all<N: Name + ?Sized>(name: &N, from: usize, to: usize, class: u32) -> bool {
    let bytes = to.wrapping_sub(from);
    let mut index = 0;
    while index < NAME_BYTES && index < bytes {
        if classes(name.byte_behind(from, index)) & class == 0 {
            return false;
        }
        index += 1;
    }
    true
}

/// The classes of a byte, each one bit.
#[inline(always)]
fn classes(byte: u8) -> u32 {
    if byte.wrapping_sub(b'0') < 10 {
        DIGITS | HEXADECIMAL | DIRECTORY_UID | SLICE_UID
    } else if byte.wrapping_sub(b'a') < 6 {
        HEXADECIMAL | DIRECTORY_UID | SLICE_UID
    } else if (byte | 0x20).wrapping_sub(b'a') < 26 {
        DIRECTORY_UID | SLICE_UID
    } else if byte == b'-' {
        DIRECTORY_UID
    } else if byte == b'_' {
        SLICE_UID
    } else {
        0
    }
}

/// The way from a cgroup up to the root, without the root itself.
///
/// Four rules settle nested cases, the same as on the daemon's way down:
/// 1. The deepest pod wins: a node of kind is itself a container, and its pods stand below it.
/// 2. Below a pod's container everything is that container's, other engines' containers included.
/// 3. Outside pods the deepest container wins.
/// 4. A unit counts only where each cgroup above it is a slice or a user's manager.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lineage {
    /// A pod's directory, and how many of the kubelet's own above it were met plus one; 0 without one.
    directory: u64,
    confirmed: u32,
    /// An id whose parent was not met yet.
    bare: u64,
    /// The container that is nearest to the root, of those that may be in a pod.
    topmost: u64,
    /// The container that is deepest.
    deepest: u64,
    /// The unit below which everything so far is.
    unit: u64,
    /// The pod, and its container or once more the pod.
    pod: u64,
    container: u64,
}

impl Lineage {
    /// Nothing was met yet.
    pub const START: Self =
        Self { directory: 0, confirmed: 0, bare: 0, topmost: 0, deepest: 0, unit: 0, pod: 0, container: 0 };

    /// Meets the next cgroup on the way up. True: what is further up does not matter.
    #[inline(always)]
    pub fn meet(&mut self, kind: u32, key: u64) -> bool {
        self.settle_bare(kind != PODMAN_PARENT);
        if kind == POD_CONTAINER {
            self.pod = key;
            self.container = key;
            return true;
        }
        if kind == POD_SLICE {
            return self.settle_pod(key);
        }
        if kind == PODS && self.confirmed != 0 {
            return self.settle_pod(self.directory);
        }
        self.confirmed = if kind == POD_DIRECTORY {
            self.directory = key;
            1
        } else if kind == CLASS && self.confirmed == 1 {
            2
        } else {
            0
        };
        match kind {
            UNIT => self.unit = key,
            SLICE | MANAGER => {
                if self.unit == 0 {
                    self.unit = key;
                }
            }
            _ => self.unit = 0,
        }
        if kind == BARE_ID {
            self.bare = key;
        }
        if kind == CONTAINER {
            self.topmost = key;
        }
        if (kind == CONTAINER || kind == STANDALONE) && self.deepest == 0 {
            self.deepest = key;
        }
        false
    }

    /// The pod's own cgroup, or the container's where it is in no pod, or 0; and the topmost cgroup of the container,
    /// of the pod where it is in none, or of the unit, or 0.
    #[inline(always)]
    #[must_use]
    pub fn end(mut self) -> (u64, u64) {
        if self.pod != 0 {
            return (self.pod, self.container);
        }
        self.settle_bare(true);
        if self.deepest != 0 { (self.deepest, self.deepest) } else { (0, self.unit) }
    }

    /// What the path says of whose the cgroup is: [`IN_NO_CONTAINER`], [`IN_CONTAINER`] or [`IN_POD`].
    #[inline(always)]
    #[must_use]
    pub fn says(self) -> u32 {
        if self.pod != 0 {
            IN_POD
        } else if self.end().0 != 0 {
            IN_CONTAINER
        } else {
            IN_NO_CONTAINER
        }
    }

    #[inline(always)]
    fn settle_bare(&mut self, is_container: bool) {
        if self.bare != 0 && is_container {
            self.topmost = self.bare;
            if self.deepest == 0 {
                self.deepest = self.bare;
            }
        }
        self.bare = 0;
    }

    #[inline(always)]
    fn settle_pod(&mut self, key: u64) -> bool {
        self.pod = key;
        self.container = if self.topmost != 0 { self.topmost } else { key };
        true
    }
}
