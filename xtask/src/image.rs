//! Container images as OCI archives, written without a container engine: `cargo xtask image` for podlens itself,
//! and the few small ones that the test cluster runs. It pushes to no registry; load an archive with `podman load`,
//! `skopeo copy oci-archive:...` or `ctr images import`. Layout:
//! <https://github.com/opencontainers/image-spec/blob/main/image-layout.md>.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use crate::{
    agent::{self, Form},
    places,
};

/// Where the name stands that containerd gives an imported image.
const CONTAINERD_NAME: &str = "io.containerd.image.name";
const TAG_NAME: &str = "org.opencontainers.image.ref.name";
/// Archives of the same content are the same bytes, so no entry has a time of its own.
const EPOCH: &str = "1970-01-01T00:00:00Z";

const DESCRIPTION: &str = "CPU, memory, disk and network of pods, and who delayed whom, by eBPF";
/// The most bytes that the program may have: a node pulls them, and the kernel keeps them in memory (docs/overhead.md).
const PROGRAM_BUDGET: usize = 12_000_000;

/// Where the archive goes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Choice {
    /// The archive's place; without it, podlens-VERSION.oci.tar in cargo's output directory
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// What an image holds and how it starts.
#[derive(Debug, Default)]
pub(crate) struct Image {
    /// Registry, repository and tag, in full: `docker.io/library/podlens:0.1.0` is what a pod calls `podlens:0.1.0`.
    pub(crate) reference: String,
    pub(crate) entries: Vec<Entry>,
    pub(crate) entrypoint: Vec<String>,
    pub(crate) command: Vec<String>,
    pub(crate) labels: Vec<(&'static str, String)>,
}

/// One file or link of an image's only layer; paths are relative to the image's root.
#[derive(Debug)]
pub(crate) enum Entry {
    /// An executable file's place and content.
    Program(String, Vec<u8>),
    Link {
        path: String,
        target: String,
    },
    /// A directory that everybody may write to.
    Scratch(String),
}

/// `cargo xtask image`.
pub(crate) fn run(choice: &Choice) -> Result<ExitCode> {
    println!("{}", podlens(choice.output.as_deref())?.display());
    Ok(ExitCode::SUCCESS)
}

/// Builds the static binary and writes the image's archive. Returns where it is.
pub(crate) fn podlens(output: Option<&Path>) -> Result<PathBuf> {
    let program = agent::build(Form { release: true, static_binary: true })?;
    let content = fs::read(&program).with_context(|| format!("cannot read {}", program.display()))?;
    ensure!(
        content.len() <= PROGRAM_BUDGET,
        "{} has {} bytes, and the budget is {PROGRAM_BUDGET}; is it without symbols (`strip` in Cargo.toml)?",
        program.display(),
        content.len()
    );
    let version = env!("CARGO_PKG_VERSION");
    let output = match output {
        Some(output) => output.to_path_buf(),
        None => places::target()?.join(format!("podlens-{version}.oci.tar")),
    };
    write(&podlens_image(version, content), &output)?;
    Ok(output)
}

/// Writes the archive.
pub(crate) fn write(image: &Image, output: &Path) -> Result<()> {
    fs::write(output, archive(image)?).with_context(|| format!("cannot write {}", output.display()))
}

fn podlens_image(version: &str, program: Vec<u8>) -> Image {
    Image {
        reference: format!("docker.io/library/podlens:{version}"),
        entries: vec![Entry::Program("podlens".into(), program)],
        entrypoint: vec!["/podlens".into()],
        command: vec!["run".into()],
        labels: vec![
            ("org.opencontainers.image.title", "podlens".into()),
            ("org.opencontainers.image.description", DESCRIPTION.into()),
            ("org.opencontainers.image.version", version.into()),
            ("org.opencontainers.image.licenses", "Apache-2.0".into()),
        ],
    }
}

fn archive(image: &Image) -> Result<Vec<u8>> {
    let layer = layer(&image.entries)?;
    let labels: serde_json::Map<String, Value> =
        image.labels.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
    let configuration = json!({
        "created": EPOCH,
        "architecture": "amd64",
        "os": "linux",
        "config": {
            // Loading kernel programs needs capabilities, and only root is given them without ambient sets.
            "User": "0",
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "Entrypoint": image.entrypoint,
            "Cmd": image.command,
            "WorkingDir": "/",
            "Labels": labels,
        },
        // The layer is not compressed, so its content's digest is its own.
        "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
        "history": [{ "created": EPOCH, "created_by": "cargo xtask image" }],
    })
    .to_string()
    .into_bytes();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &configuration),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
    })
    .to_string()
    .into_bytes();
    let mut listed = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    let tag = image.reference.rsplit_once(':').map_or("latest", |(_, tag)| tag);
    if let Some(fields) = listed.as_object_mut() {
        fields.insert("platform".into(), json!({ "architecture": "amd64", "os": "linux" }));
        fields.insert("annotations".into(), json!({ CONTAINERD_NAME: image.reference, TAG_NAME: tag }));
    }
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [listed],
    });
    let mut tar = Tar::new();
    tar.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    tar.file("index.json", 0o644, index.to_string().as_bytes())?;
    for blob in [&layer, &configuration, &manifest] {
        tar.file(&format!("blobs/sha256/{}", hexadecimal(blob)), 0o644, blob)?;
    }
    tar.finish()
}

fn layer(entries: &[Entry]) -> Result<Vec<u8>> {
    let mut tar = Tar::new();
    for entry in entries {
        match entry {
            Entry::Program(path, content) => tar.file(path, 0o755, content)?,
            Entry::Link { path, target } => tar.link(path, target)?,
            Entry::Scratch(path) => tar.directory(path)?,
        }
    }
    tar.finish()
}

fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(content), "size": content.len() })
}

fn digest(content: &[u8]) -> String {
    format!("sha256:{}", hexadecimal(content))
}

fn hexadecimal(content: &[u8]) -> String {
    format!("{:x}", Sha256::digest(content))
}

/// An archive in ustar, the oldest common format: enough for short names, and the same bytes each time.
struct Tar(Builder<Vec<u8>>);

impl Tar {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.entry(path, mode, EntryType::Regular, None, content)
    }

    fn link(&mut self, path: &str, target: &str) -> Result<()> {
        self.entry(path, 0o777, EntryType::Symlink, Some(target), &[])
    }

    fn directory(&mut self, path: &str) -> Result<()> {
        self.entry(path, 0o1777, EntryType::Directory, None, &[])
    }

    fn finish(self) -> Result<Vec<u8>> {
        self.0.into_inner().context("cannot end the archive")
    }

    fn entry(&mut self, path: &str, mode: u32, kind: EntryType, target: Option<&str>, content: &[u8]) -> Result<()> {
        let refused = || format!("cannot write `{path}` into the archive");
        let mut header = Header::new_ustar();
        header.set_path(path).with_context(refused)?;
        if let Some(target) = target {
            header.set_link_name(target).with_context(refused)?;
        }
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.0.append(&header, content).with_context(refused)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use std::{
        env, fs,
        os::unix::fs::PermissionsExt as _,
        path::{Path, PathBuf},
        process::{self, Command},
    };

    use serde_json::{Value, json};

    use super::{Entry, archive, layer, podlens_image};

    fn unpacked(tar: &[u8], name: &str) -> PathBuf {
        let directory = env::temp_dir().join(format!("podlens-image-{name}-{}", process::id()));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("in.tar"), tar).unwrap();
        let status = Command::new("tar").current_dir(&directory).args(["-xf", "in.tar"]).status().unwrap();
        assert!(status.success());
        directory
    }

    #[test]
    fn tar_reads_back_the_layer_with_modes_and_links() {
        let content = vec![7; 1025];
        let entries = [
            Entry::Program("bin/tool".into(), content.clone()),
            Entry::Link { path: "bin/sh".into(), target: "tool".into() },
            Entry::Scratch("tmp".into()),
        ];
        let directory = unpacked(&layer(&entries).unwrap(), "layer");
        assert_eq!(fs::read(directory.join("bin/tool")).unwrap(), content);
        assert_eq!(fs::metadata(directory.join("bin/tool")).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(fs::read_link(directory.join("bin/sh")).unwrap(), Path::new("tool"));
        assert!(directory.join("tmp").is_dir());
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn every_digest_in_the_archive_is_that_of_the_blob_it_names() {
        let directory = unpacked(&archive(&podlens_image("1.2.3", vec![1, 2, 3])).unwrap(), "archive");
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().unwrap().replace(':', "/");
            let bytes = fs::read(directory.join("blobs").join(&digest)).unwrap();
            assert_eq!(descriptor["size"], json!(bytes.len()));
            let sum = Command::new("sha256sum").arg(directory.join("blobs").join(&digest)).output().unwrap();
            let sum = String::from_utf8(sum.stdout).unwrap();
            assert_eq!(sum.split(' ').next(), digest.strip_prefix("sha256/"));
            bytes
        };
        let index: Value = serde_json::from_slice(&fs::read(directory.join("index.json")).unwrap()).unwrap();
        let manifest: Value = serde_json::from_slice(&blob(&index["manifests"][0])).unwrap();
        let configuration: Value = serde_json::from_slice(&blob(&manifest["config"])).unwrap();
        blob(&manifest["layers"][0]);
        assert_eq!(configuration["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
        assert_eq!(configuration["config"]["Entrypoint"], json!(["/podlens"]));
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_name_too_long_for_the_format_is_refused() {
        assert!(layer(&[Entry::Scratch("x".repeat(101))]).is_err());
    }
}
