//! A disk of a test's own on which reads take long: in memory where the module `null_blk` is at hand (in the virtual machines), else
//! a loop device over another one, which the readers' cgroup may read from but a few times a second. What they ask of the upper one
//! is in that device for as long as it waits at the lower one.

use std::{
    env, fs,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    process::{Command, id},
};

use super::null_disk::NullDisk;

/// Reads a second from the lower device.
const READS: u32 = 4;

/// The disk, removed with the value; nobody may use it then.
#[derive(Debug)]
pub struct SlowDisk(Kind);

#[derive(Debug)]
enum Kind {
    InMemory(NullDisk),
    /// The upper one first, since it is taken away first.
    Loops {
        upper: Loop,
        _lower: Loop,
        _file: Backing,
    },
}

#[derive(Debug)]
struct Loop(PathBuf);

#[derive(Debug)]
struct Backing(PathBuf);

impl SlowDisk {
    /// One that is slow at least for the cgroup with these directories.
    pub fn make(cgroup: &[PathBuf]) -> Self {
        let slow = [("size", "64"), ("irqmode", "2"), ("completion_nsec", "300000000")];
        if let Some(disk) = NullDisk::make("nullb2", &slow) {
            return Self(Kind::InMemory(disk));
        }
        let file = Backing(env::temp_dir().join(format!("podlens-slow-{}", id())));
        fs::File::create(&file.0).unwrap().set_len(64 << 20).unwrap();
        let lower = Loop::over(&file.0, &[]);
        // Past the page cache, in which the lower one's pages would be found.
        let upper = Loop::over(&lower.0, &["--direct-io=on"]);
        let number = fs::metadata(&lower.0).unwrap().rdev();
        let number = format!("{}:{}", libc::major(number), libc::minor(number));
        let limit = |directory: &PathBuf| {
            let version_1 = directory.join("blkio.throttle.read_iops_device");
            if version_1.exists() {
                return fs::write(version_1, format!("{number} {READS}")).is_ok();
            }
            fs::write(directory.join("io.max"), format!("{number} riops={READS}")).is_ok()
        };
        assert!(cgroup.iter().any(limit), "the kernel limits reads of none of {cgroup:?}");
        Self(Kind::Loops { upper, _lower: lower, _file: file })
    }

    /// Its device.
    pub fn path(&self) -> PathBuf {
        match &self.0 {
            Kind::InMemory(disk) => disk.path(),
            Kind::Loops { upper, .. } => upper.0.clone(),
        }
    }
}

impl Loop {
    fn over(below: &Path, options: &[&str]) -> Self {
        let found = Command::new("losetup").args(["--find", "--show"]).args(options).arg(below).output().unwrap();
        assert!(found.status.success(), "losetup {}: {}", below.display(), String::from_utf8_lossy(&found.stderr));
        let path = PathBuf::from(String::from_utf8(found.stdout).unwrap().trim());
        assert!(fs::metadata(&path).is_ok_and(|device| device.file_type().is_block_device()), "{}", path.display());
        Self(path)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
