//! Builds the kernel programs, so that the daemon can carry them as bytes, and says what a static release is linked without.

use std::{env, fs, path::Path};

use anyhow::{Context as _, Result};
use aya_build::{Package, Toolchain};
use object::{
    build::elf::{Builder, SectionData},
    elf::SHT_STRTAB,
};

/// What the names of sections begin with that only a debugger or a linker reads: four fifths of the object. The verifier's
/// messages have lines and types from `.BTF.ext` and `.BTF`, in which no loader relocates anything.
const NOT_LOADED: [&[u8]; 3] = [b".debug_", b".rel.debug_", b".rel.BTF"];

fn main() -> Result<()> {
    let agent = env::var("CARGO_MANIFEST_DIR").context("cargo did not set CARGO_MANIFEST_DIR")?;
    let ebpf = Path::new(&agent).with_file_name("agent-ebpf");
    let common = Path::new(&agent).with_file_name("agent-common");
    println!("cargo:rerun-if-changed={}", common.display());
    let is = |variable: &str, value: &str| env::var(variable).is_ok_and(|found| found == value);
    if is("CARGO_CFG_TARGET_ENV", "musl") && is("PROFILE", "release") {
        let script = Path::new(&agent).join("static.ld");
        println!("cargo:rerun-if-changed={}", script.display());
        println!("cargo:rustc-link-arg-bins=-Wl,-T,{}", script.display());
    }
    for (name, value) in [
        // `core` for the BPF target is not distributed and has to be built, which a stable compiler does only under
        // this variable. It is set here alone: exported, it would switch on nightly features in dependencies.
        ("RUSTC_BOOTSTRAP", "1"),
        // Instructions on half registers, which all supported kernels have: less code (docs/adr/0009). The flag is
        // the programs' alone, not that of what runs while they are built.
        ("CARGO_UNSTABLE_PROFILE_RUSTFLAGS", "true"),
        ("CARGO_PROFILE_RELEASE_RUSTFLAGS", "-Ctarget-cpu=v3"),
        ("CARGO_PROFILE_RELEASE_BUILD_OVERRIDE_RUSTFLAGS", ""),
    ] {
        // SAFETY: a build script has one thread at this point.
        unsafe { env::set_var(name, value) };
    }
    let ebpf = ebpf.to_str().context("the path of the checkout is not UTF-8")?;
    let toolchain = env::var("RUSTUP_TOOLCHAIN").unwrap_or_else(|_| "stable".to_owned());
    let features: &[&str] = if env::var_os("CARGO_FEATURE_KERNEL_LOG").is_some() { &["kernel-log"] } else { &[] };
    aya_build::build_ebpf(
        [Package { name: "podlens-ebpf", root_dir: ebpf, features, ..Default::default() }],
        Toolchain::Custom(&toolchain),
    )
    .context("the kernel programs did not build; `cargo xtask setup` installs what they need")?;
    let object = Path::new(&env::var("OUT_DIR").context("cargo did not set OUT_DIR")?).join("podlens-bpf");
    let whole = fs::read(&object).with_context(|| format!("cannot read {}", object.display()))?;
    let stripped = strip(&whole).with_context(|| format!("{} is no object", object.display()))?;
    fs::write(&object, stripped).with_context(|| format!("cannot write {}", object.display()))
}

/// The object without what is not loaded.
fn strip(object: &[u8]) -> object::build::Result<Vec<u8>> {
    let mut builder = Builder::read(object)?;
    for section in &mut builder.sections {
        section.delete = NOT_LOADED.iter().any(|start| section.name.starts_with(start));
    }
    builder.delete_orphans();
    // The linker has one section for the names of sections and those of symbols.
    if !builder.sections.iter().any(|section| matches!(section.data, SectionData::SectionString)) {
        let names = builder.sections.add();
        names.name = ".shstrtab".into();
        names.sh_type = SHT_STRTAB;
        names.sh_addralign = 1;
        names.data = SectionData::SectionString;
    }
    let mut stripped = Vec::new();
    builder.write(&mut stripped)?;
    Ok(stripped)
}
