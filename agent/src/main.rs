//! The binary `podlens`.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Parser as _;
use podlens::{
    cli::{Cli, Command, ConfigFile},
    collectors,
    commands::{check, fleet, probe, run, snapshot},
    config::{self, Config, Inputs},
    log,
};

#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: podlens::kernel::allocator::Allocator = podlens::kernel::allocator::Allocator;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Command::Run(options) => load(options.config.clone(), options.flags()).and_then(|config| {
            log::start(&config.log);
            run::run(&config).map(|()| ExitCode::SUCCESS)
        }),
        Command::Check(options) => {
            let flags = options.config.flags();
            load(options.config, flags).and_then(|config| match &options.cgroup {
                Some(path) => check::explain(&config, path),
                None => check::run(&config),
            })
        }
        Command::Snapshot(options) => load(options.config.clone(), options.config.flags())
            .and_then(|config| snapshot::run(&config, &options).map(|()| ExitCode::SUCCESS)),
        Command::Fleet(options) => {
            load(options.config.clone(), options.flags()).and_then(|config| fleet::run(&config, &options))
        }
        Command::Probe(options) => probe::run(&options),
    };
    outcome.unwrap_or_else(|cause| {
        let _ = writeln!(io::stderr(), "podlens: {}", log::with_causes(&*cause));
        ExitCode::FAILURE
    })
}

fn load(file: ConfigFile, flags: Vec<(&'static str, String)>) -> anyhow::Result<Config> {
    let (names, on_demand) = (collectors::switchable(), collectors::on_demand());
    let loaded = config::load(&Inputs::of_process(&names, &on_demand, file.file, flags))?;
    for warning in &loaded.warnings {
        let _ = writeln!(io::stderr(), "podlens: {warning}");
    }
    Ok(loaded.config)
}
