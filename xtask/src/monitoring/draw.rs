//! `cargo xtask dashboards`: pictures of the dashboards with the answers of a Prometheus, to be looked at after a change of a panel
//! and where no Grafana is at hand.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail};
use testkit::dashboards::{Dashboard, Source};

use super::dashboards;

/// A graph has at most so many points.
const POINTS: f64 = 240.0;

/// What to draw.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Choice {
    /// The Prometheus that scrapes agents and has the rules
    #[arg(long, value_name = "ADDRESS:PORT")]
    prometheus: SocketAddr,
    /// The last so many minutes
    #[arg(long, default_value_t = 60)]
    minutes: u32,
    /// Seconds from one scrape to the next
    #[arg(long, default_value_t = 15)]
    interval: u32,
    /// A variable's value; the others match everything
    #[arg(long = "set", value_name = "VARIABLE=VALUE")]
    values: Vec<String>,
    /// The directory to write to, one SVG for each dashboard
    #[arg(long, default_value = "target/dashboards")]
    to: PathBuf,
}

/// `cargo xtask dashboards`, as any user.
pub(crate) fn run(choice: &Choice) -> Result<ExitCode> {
    let mut values = Vec::new();
    for value in &choice.values {
        let Some(pair) = value.split_once('=') else { bail!("--set {value}: write VARIABLE=VALUE, such as pod=web-0") };
        values.push(pair);
    }
    let until = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_secs_f64();
    let (seconds, interval) = (f64::from(choice.minutes) * 60.0, f64::from(choice.interval));
    let source = Source { address: choice.prometheus, until, seconds, step: (seconds / POINTS).max(interval) };
    // As Grafana takes it: four scrapes, or one more than a step where that is longer.
    let window = format!("{:.0}s", (4.0 * interval).max(source.step + interval));
    fs::create_dir_all(&choice.to).with_context(|| format!("cannot make {}", choice.to.display()))?;
    for made in dashboards::all() {
        let about = |fault| anyhow::anyhow!("the dashboard {}: {fault}", made.name);
        let picture = Dashboard::read(&made.text(), &values, &window)
            .and_then(|dashboard| dashboard.draw(&source))
            .map_err(about)?;
        let path = choice.to.join(format!("{}.svg", made.name));
        fs::write(&path, picture.svg).with_context(|| format!("cannot write {}", path.display()))?;
        println!("{}", path.display());
        for title in picture.empty {
            println!("    no answer: {title}");
        }
    }
    Ok(ExitCode::SUCCESS)
}
