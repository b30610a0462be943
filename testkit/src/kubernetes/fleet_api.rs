//! An API server for many kinds of objects in all namespaces: paged lists, watches and Leases, with the faults that a
//! test wants. Like [`super::ApiServer`], which is for one node's pods, it has no script: objects are put in and taken out, and
//! any number of clients follow.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    io::{BufReader, Read as _},
    net::{SocketAddr, TcpStream},
    ops::Bound,
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::listening::{
    ANYWHERE, BOOKMARKS, Lines, Listening, bookmark, divided, failure, head, reply, since_and_time,
};

/// Changes of a kind that are remembered; a watch from before them is refused.
const HISTORY: usize = 200_000;
/// Where Leases are.
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/";

/// What the server knows. It outlives the server, as etcd does.
#[derive(Default)]
pub struct Objects {
    content: Mutex<Content>,
    changed: Condvar,
}

#[derive(Default)]
struct Content {
    version: u64,
    kinds: HashMap<String, Kind>,
    leases: BTreeMap<String, Value>,
    faults: Faults,
    requests: HashMap<(String, &'static str, u16), u64>,
    sent_bytes: u64,
}

#[derive(Default)]
struct Kind {
    /// By uid.
    objects: BTreeMap<String, Arc<str>>,
    history: VecDeque<(u64, Arc<str>)>,
    /// The newest version that the history no longer has.
    forgotten: u64,
}

/// What is wrong with the server.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Paths that are answered with 403.
    pub forbidden: BTreeSet<String>,
    /// Nothing is answered, and no watch tells anything.
    pub silent: bool,
    /// Leases are answered with 500.
    pub no_leases: bool,
    /// What answers all lists.
    pub list: Option<String>,
}

impl Objects {
    /// Makes or changes an object of the kind at `path`; an event also belongs to what it is about.
    pub fn put(&self, path: &str, mut object: Value) {
        let key = key(path, &object);
        let uid = object["metadata"]["uid"].as_str().expect("it has a uid").to_owned();
        let mut content = self.content();
        content.version += 1;
        let version = content.version;
        object["metadata"]["resourceVersion"] = version.to_string().into();
        let text: Arc<str> = object.to_string().into();
        let kind = content.kinds.entry(key).or_default();
        let what = if kind.objects.insert(uid, Arc::clone(&text)).is_some() { "MODIFIED" } else { "ADDED" };
        kind.note(version, what, &text);
        drop(content);
        self.changed.notify_all();
    }

    /// Makes an object that no one can read, in place of one or as a new one.
    pub fn put_odd(&self, path: &str, uid: &str, object: &Value) {
        let mut content = self.content();
        content.version += 1;
        let (version, text) = (content.version, Arc::<str>::from(object.to_string()));
        let kind = content.kinds.entry(path.to_owned()).or_default();
        kind.objects.insert(uid.to_owned(), Arc::clone(&text));
        kind.note(version, "MODIFIED", &text);
        drop(content);
        self.changed.notify_all();
    }

    /// Takes an object away.
    pub fn delete(&self, path: &str, uid: &str) {
        let mut content = self.content();
        content.version += 1;
        let version = content.version;
        for kind in
            content.kinds.iter_mut().filter(|(key, _)| key.split('?').next() == Some(path)).map(|(_, kind)| kind)
        {
            if let Some(text) = kind.objects.remove(uid) {
                kind.note(version, "DELETED", &text);
            }
        }
        drop(content);
        self.changed.notify_all();
    }

    /// Drops all changes so far, as a restart or a long time does.
    pub fn forget_history(&self) {
        let mut content = self.content();
        let version = content.version;
        for kind in content.kinds.values_mut() {
            kind.forgotten = version;
            kind.history.clear();
        }
        drop(content);
        self.changed.notify_all();
    }

    /// From now on this is wrong.
    pub fn set_faults(&self, faults: Faults) {
        self.content().faults = faults;
        self.changed.notify_all();
    }

    /// Who holds the Lease of this name.
    pub fn holder(&self, name: &str) -> Option<String> {
        Some(self.lease(name)?["spec"]["holderIdentity"].as_str()?.to_owned())
    }

    /// The Lease of that name.
    pub fn lease(&self, name: &str) -> Option<Value> {
        let content = self.content();
        content.leases.iter().find(|(path, _)| path.ends_with(name)).map(|(_, lease)| lease.clone())
    }

    /// How often `path` was asked for this (`list`, `watch`, `get`, `update` or `create`) and answered with that code.
    pub fn requests(&self, path: &str, verb: &'static str, code: u16) -> u64 {
        let content = self.content();
        content
            .requests
            .iter()
            .filter(|((of, what, with), _)| of == path && (*what, *with) == (verb, code))
            .map(|(_, count)| count)
            .sum()
    }

    /// Bytes of lists and watches that were sent.
    pub fn sent_bytes(&self) -> u64 {
        self.content().sent_bytes
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap()
    }
}

impl Kind {
    fn note(&mut self, version: u64, what: &str, object: &str) {
        self.history.push_back((version, format!("{{\"type\":\"{what}\",\"object\":{object}}}\n").into()));
        while self.history.len() > HISTORY {
            self.forgotten = self.history.pop_front().map_or(self.forgotten, |(version, _)| version);
        }
    }
}

/// Events about different kinds are asked for apart.
fn key(path: &str, object: &Value) -> String {
    match object.pointer("/involvedObject/kind").and_then(Value::as_str) {
        Some(kind) => format!("{path}?{kind}"),
        None => path.to_owned(),
    }
}

/// A server for objects. Goes away with the value.
pub struct FleetServer {
    listening: Listening,
    objects: Arc<Objects>,
}

impl FleetServer {
    /// On a free port of loopback.
    pub fn start(objects: &Arc<Objects>) -> Self {
        Self::start_at(ANYWHERE, objects)
    }

    /// Where an earlier one was.
    pub fn start_at(address: SocketAddr, objects: &Arc<Objects>) -> Self {
        let objects = Arc::clone(objects);
        let served = Arc::clone(&objects);
        let listening = Listening::start_at(address, move |stream, stopped| serve(stream, &served, stopped));
        Self { listening, objects }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.listening.address()
    }
}

impl Drop for FleetServer {
    fn drop(&mut self) {
        self.listening.end(|| self.objects.changed.notify_all());
    }
}

/// Answers one connection's requests, one after another.
fn serve(stream: &TcpStream, objects: &Objects, stopped: &AtomicBool) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    while let Some(head) = head(&mut reader)? {
        let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        reader.read_exact(&mut body)?;
        let mut words = head.split(' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (path, query) = divided(target);
        let mut content = objects.content();
        while content.faults.silent && !stopped.load(Ordering::Acquire) {
            content = objects.changed.wait_timeout(content, BOOKMARKS).unwrap().0;
        }
        let (key, verb) = match method {
            "POST" => (path.to_owned(), "create"),
            "PUT" => (path.to_owned(), "update"),
            _ if path.starts_with(LEASES) => (path.to_owned(), "get"),
            _ => {
                let of = query.get("fieldSelector").and_then(|field| field.strip_prefix("involvedObject.kind%3D"));
                let of = of.and_then(|field| field.split('%').next());
                let verb = if query.contains_key("watch") { "watch" } else { "list" };
                (of.map_or(path.to_owned(), |of| format!("{path}?{of}")), verb)
            }
        };
        let (since, time) = since_and_time(&query);
        let is_gone = verb == "watch" && content.kinds.get(&key).is_some_and(|kind| since < kind.forgotten);
        let (code, answer) = if content.faults.forbidden.contains(path) {
            (403, failure(403))
        } else if path.starts_with(LEASES) {
            content.lease(verb, path, &body)
        } else if is_gone {
            (410, failure(410))
        } else if verb == "list" {
            let text = content.list(&key, &query);
            content.sent_bytes += text.len() as u64;
            (200, text)
        } else {
            (200, String::new())
        };
        *content.requests.entry((path.to_owned(), verb, code)).or_default() += 1;
        drop(content);
        if verb == "watch" && code == 200 {
            watch(stream, objects, stopped, &key, since, time)?;
        } else {
            reply(stream, &format!("{code} Answer"), &answer)?;
        }
    }
    Ok(())
}

impl Content {
    /// A page of the objects in the order of their uids.
    fn list(&self, key: &str, query: &HashMap<&str, &str>) -> String {
        if let Some(answer) = &self.faults.list {
            return answer.clone();
        }
        let limit = query.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
        let after = query.get("continue").copied().filter(|after| !after.is_empty());
        let after =
            after.map(|after| String::from_utf8(percent_encoding::percent_decode_str(after).collect()).unwrap());
        let none = BTreeMap::new();
        let objects = self.kinds.get(key).map_or(&none, |kind| &kind.objects);
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let page: Vec<(&String, &Arc<str>)> =
            objects.range::<String, _>((from, Bound::Unbounded)).take(limit).collect();
        let last = page.last().map(|(uid, _)| (*uid).clone()).filter(|_| page.len() == limit);
        let items: Vec<&str> = page.iter().map(|(_, text)| &***text).collect();
        let metadata = json!({ "resourceVersion": self.version.to_string(), "continue": last });
        let kind = match key.split('?').next().and_then(|path| path.rsplit('/').next()) {
            Some("daemonsets") => "DaemonSetList",
            Some("controllerrevisions") => "ControllerRevisionList",
            Some("nodes") => "NodeList",
            Some("pods") => "PodList",
            _ => "EventList",
        };
        format!("{{\"kind\":\"{kind}\",\"metadata\":{metadata},\"items\":[{}]}}", items.join(","))
    }

    fn lease(&mut self, verb: &str, path: &str, body: &[u8]) -> (u16, String) {
        if self.faults.no_leases {
            return (500, failure(500));
        }
        let mut object: Value = serde_json::from_slice(body).unwrap_or_default();
        let path = match verb {
            "create" => format!("{path}/{}", object["metadata"]["name"].as_str().unwrap_or_default()),
            _ => path.to_owned(),
        };
        let present = self.leases.get(&path);
        let is_current =
            |present: &Value| present["metadata"]["resourceVersion"] == object["metadata"]["resourceVersion"];
        match (verb, present) {
            ("get", Some(present)) => return (200, present.to_string()),
            ("get" | "update", None) => return (404, failure(404)),
            ("create", Some(_)) => return (409, failure(409)),
            ("update", Some(present)) if !is_current(present) => return (409, failure(409)),
            _ => {}
        }
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let text = object.to_string();
        self.leases.insert(path, object);
        (if verb == "create" { 201 } else { 200 }, text)
    }
}

fn watch(
    stream: &TcpStream,
    objects: &Objects,
    stopped: &AtomicBool,
    key: &str,
    mut since: u64,
    time: Duration,
) -> std::io::Result<()> {
    let end = Instant::now() + time;
    let mut answer = Lines::begin(stream)?;
    let mut content = objects.content();
    while !stopped.load(Ordering::Acquire) && Instant::now() < end {
        let none = Kind::default();
        let kind = content.kinds.get(key).unwrap_or(&none);
        if since < kind.forgotten {
            drop(content);
            answer.send_expired()?;
            break;
        }
        let first = kind.history.partition_point(|(version, _)| *version <= since);
        let is_silent = content.faults.silent;
        let lines: String =
            if is_silent { String::new() } else { kind.history.range(first..).map(|(_, line)| &**line).collect() };
        if lines.is_empty() {
            let (next, wait) = objects.changed.wait_timeout(content, BOOKMARKS).unwrap();
            content = next;
            if wait.timed_out() && !content.faults.silent {
                let line = bookmark("Any", since);
                content.sent_bytes += line.len() as u64;
                drop(content);
                answer.send(&line)?;
                content = objects.content();
            }
        } else {
            since = content.version;
            content.sent_bytes += lines.len() as u64;
            drop(content);
            answer.send(&lines)?;
            content = objects.content();
        }
    }
    answer.end()
}
