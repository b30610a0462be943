//! `podlens fleet` as the chart's Deployment: how soon it tells why, how soon it notices an end, and roll-outs.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::e2e::{
    fleet::{addresses, lacking, leader, pages, rollout, sample},
    wait::within,
    workloads::{container, daemon_set},
    world::{BURN_IMAGE, RELEASE, World, items, text},
};

/// Of all objects of these checks.
const SPACE: &str = "fleet-watched";
/// From nothing to the first reason.
const FIRST_WHY: Duration = Duration::from_mins(2);
/// An end is noticed within it.
const NOTICED: Duration = Duration::from_secs(5);
const LIMIT: Duration = Duration::from_mins(1);
const NO_IMAGE: &str = "nobody.invalid/none:1";

/// Installs the chart anew with the fleet, beside a fault that is there already.
pub(super) fn first_why(world: &mut World) -> Result<String> {
    world.apply(&[
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": SPACE } }),
        with_image("faulty", NO_IMAGE, &json!({ "type": "RollingUpdate" })),
    ])?;
    world.helm(&["uninstall", RELEASE, "--wait", "--timeout", "60s", "--ignore-not-found"])?;
    let started = Instant::now();
    world.install(&json!({ "fleet": { "enabled": true } }), false)?;
    within(FIRST_WHY, || match lacking(&leader(world)?, "faulty") {
        reasons if reasons == ["image"] => Ok(()),
        reasons => bail!("faulty lacks its pod for {reasons:?}"),
    })?;
    let first = started.elapsed();
    if first > FIRST_WHY {
        bail!("the first reason took {first:?}");
    }
    // The one that does not lead tells nothing.
    let pages = within(LIMIT, || match pages(world)? {
        pages if pages.len() == 2 => Ok(pages),
        pages => bail!("{} replicas answer", pages.len()),
    })?;
    let telling = pages.iter().filter(|page| !page.all("podlens_fleet_nodes", &[]).is_empty()).count();
    if telling != 1 {
        bail!("{telling} of two replicas tell");
    }
    // The end, counted from when the API server shows a pod that works.
    set_image(world, "faulty", BURN_IMAGE)?;
    let works = within(LIMIT, || if works(world, "faulty")? { Ok(Instant::now()) } else { bail!("no pod works") })?;
    within(NOTICED, || match lacking(&leader(world)?, "faulty") {
        reasons if reasons.is_empty() => Ok(()),
        reasons => bail!("faulty still lacks its pod for {reasons:?}"),
    })?;
    Ok(format!("first reason after {:.0} s, its end after {:.1} s", first.as_secs_f64(), works.elapsed().as_secs_f64()))
}

/// One roll-out that rolls, one that a bad image holds up, and one that waits for somebody.
pub(super) fn roll_outs(world: &mut World) -> Result<String> {
    let surge = json!({ "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } });
    let told = (|| {
        world.apply(&[
            with_image("surges", BURN_IMAGE, &surge),
            with_image("waits", BURN_IMAGE, &json!({ "type": "OnDelete" })),
        ])?;
        becomes(world, "surges", "settled")?;
        becomes(world, "waits", "settled")?;
        world.kubectl(&["set", "env", "--namespace", SPACE, "daemonset/surges", "daemonset/waits", "A=b"])?;
        becomes(world, "waits", "paused")?;
        let mut seen = Vec::new();
        within(LIMIT, || {
            seen.push(rollout(&leader(world)?, "surges"));
            let pods = world.get(&["pods", "--namespace", SPACE, "--selector", "app=surges"])?;
            let has_new = items(&pods).len() == 1 && pods.to_string().contains("\"name\":\"A\"");
            if has_new && seen.last().is_some_and(|state| state == "settled") {
                Ok(())
            } else {
                bail!("surges is {seen:?}")
            }
        })?;
        if seen.iter().any(|state| state == "stuck") {
            bail!("a roll-out that rolls is told to be stuck: {seen:?}");
        }
        world.kubectl(&["delete", "pods", "--namespace", SPACE, "--selector", "app=waits", "--wait=false"])?;
        becomes(world, "waits", "settled")?;
        set_image(world, "surges", NO_IMAGE)?;
        becomes(world, "surges", "stuck")?;
        // The old pod works all the while.
        if let reasons @ [_, ..] = &lacking(&leader(world)?, "surges")[..] {
            bail!("surges lacks its pod for {reasons:?}");
        }
        world.kubectl(&["rollout", "undo", "--namespace", SPACE, "daemonset/surges"])?;
        becomes(world, "surges", "settled")?;
        let page = leader(world)?;
        match sample(&page, "podlens_fleet_rolled_back", &[("daemonset", "surges")]) {
            Some(1.0) => Ok("settled, rolling, stuck by an image, rolled back, paused".to_owned()),
            other => bail!("podlens_fleet_rolled_back of surges is {other:?}"),
        }
    })();
    world.kubectl(&["delete", "namespace", SPACE, "--wait=false"])?;
    told
}

fn with_image(name: &str, image: &str, strategy: &Value) -> Value {
    let mut app = container("app", &["1", "stay"], &json!({}));
    for (member, value) in [("image", image), ("imagePullPolicy", "IfNotPresent")] {
        if let Some(app) = app.as_object_mut() {
            app.insert(member.to_owned(), json!(value));
        }
    }
    let mut set = daemon_set(SPACE, name, json!({ "containers": [app], "terminationGracePeriodSeconds": 1 }));
    if let Some(spec) = set.pointer_mut("/spec").and_then(Value::as_object_mut) {
        spec.insert("updateStrategy".to_owned(), strategy.clone());
    }
    set
}

fn set_image(world: &World, name: &str, image: &str) -> Result<()> {
    let (set, image) = (format!("daemonset/{name}"), format!("app={image}"));
    world.kubectl(&["set", "image", "--namespace", SPACE, &set, &image]).map(drop)
}

/// Tokens and a port for probes; without TLS, for which the file is the same.
pub(super) fn serves_with_credentials(world: &mut World) -> Result<String> {
    const TOKEN: &str = "0123456789abcdef0123456789abcdef";
    world.apply(&[json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "web", "namespace": RELEASE },
        "stringData": { "web.yaml": "bearer_token_file: token\n", "token": TOKEN },
    })])?;
    let web = json!({ "existingSecret": "web", "tls": false });
    // Ready by the port of the probes.
    world.install(&json!({ "fleet": { "enabled": true }, "web": web }), true)?;
    within(LIMIT, || {
        let addresses = addresses(world)?;
        if addresses.len() != 2 {
            bail!("{} replicas have an address", addresses.len());
        }
        for address in addresses {
            for (token, wanted) in [("", 401), ("0123456789abcdef0123456789abcdee", 401), (TOKEN, 200)] {
                let status = status(address, token)?;
                if status != wanted {
                    bail!("{address} answers {status} to the token {token:?}, not {wanted}");
                }
            }
        }
        Ok(())
    })?;
    Ok("both replicas are ready, answer to the token and to nobody else".to_owned())
}

/// How `/metrics` answers whoever shows this token.
fn status(address: SocketAddr, token: &str) -> Result<u16> {
    let mut stream =
        TcpStream::connect_timeout(&address, NOTICED).with_context(|| format!("cannot reach {address}"))?;
    stream.set_read_timeout(Some(NOTICED))?;
    write!(
        stream,
        "GET /metrics HTTP/1.1\r\nHost: fleet\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\r\n"
    )?;
    let mut head = String::new();
    BufReader::new(stream).read_line(&mut head)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.with_context(|| format!("{address} answers {head:?}"))
}

/// Its newest pod works, as the API server has it.
fn works(world: &World, name: &str) -> Result<bool> {
    let pods = world.get(&["pods", "--namespace", SPACE, "--selector", &format!("app={name}")])?;
    let is_ready = |pod: &Value| {
        let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
        conditions.into_iter().flatten().any(|one| (text(one, "/type"), text(one, "/status")) == ("Ready", "True"))
    };
    Ok(items(&pods).iter().any(is_ready))
}

fn becomes(world: &World, name: &str, wanted: &str) -> Result<()> {
    within(LIMIT, || match rollout(&leader(world)?, name) {
        state if state == wanted => Ok(()),
        state => bail!("the roll-out of {name} is {state}, not {wanted}"),
    })
}
