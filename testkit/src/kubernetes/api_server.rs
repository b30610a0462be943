//! An API server of the test's own with the semantics that a watch rests on: each change has a version, a list tells
//! the version that it shows, a watch gives every change after one, and who comes too late is told so (410).
//!
//! No script of answers: pods are put in and taken out, and any number of clients follow. It
//! also checks tokens, can go away and come back under the same address, and counts what it was asked.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    io::BufReader,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
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

/// Changes that are remembered; a watch from before them is refused.
const HISTORY: usize = 10_000;

/// What the server knows. It outlives the server, as etcd does.
#[derive(Default)]
pub struct Store {
    content: Mutex<Content>,
    changed: Condvar,
}

#[derive(Default)]
struct Content {
    version: u64,
    /// The newest version that the history no longer has.
    forgotten: u64,
    pods: BTreeMap<String, Stored>,
    history: VecDeque<(u64, String, String)>,
    token: Option<String>,
    requests: HashMap<(&'static str, u16), u64>,
}

struct Stored {
    node: String,
    object: Value,
}

impl Store {
    /// Makes or changes a pod.
    pub fn put(&self, pod: &Value) {
        let uid = text(pod, "/metadata/uid");
        let mut content = self.content();
        let kind = if content.pods.contains_key(&uid) { "MODIFIED" } else { "ADDED" };
        let stored = content.change(kind, pod.clone());
        content.pods.insert(uid, stored);
        self.changed.notify_all();
    }

    /// Takes a pod away.
    pub fn delete(&self, uid: &str) {
        let mut content = self.content();
        let stored = content.pods.remove(uid).expect("the pod exists");
        content.change("DELETED", stored.object);
        self.changed.notify_all();
    }

    /// From now on only this token is good.
    pub fn accept_only(&self, token: &str) {
        self.content().token = Some(token.to_owned());
    }

    /// Drops all changes so far, as a restart or a long time does.
    pub fn forget_history(&self) {
        let mut content = self.content();
        content.forgotten = content.version;
        content.history.clear();
    }

    /// How often it was asked for this (`list` or `watch`) and answered with that code.
    pub fn requests(&self, verb: &'static str, code: u16) -> u64 {
        self.content().requests.get(&(verb, code)).copied().unwrap_or(0)
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap()
    }
}

impl Content {
    fn change(&mut self, kind: &str, mut object: Value) -> Stored {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let node = text(&object, "/spec/nodeName");
        let line = json!({ "type": kind, "object": object }).to_string();
        self.history.push_back((self.version, node.clone(), line));
        while self.history.len() > HISTORY {
            self.forgotten = self.history.pop_front().map_or(self.forgotten, |(version, ..)| version);
        }
        Stored { node, object }
    }

    fn list(&self, node: &str) -> String {
        let items: Vec<&Value> =
            self.pods.values().filter(|stored| stored.node == node).map(|stored| &stored.object).collect();
        json!({ "kind": "PodList", "apiVersion": "v1", "metadata": { "resourceVersion": self.version.to_string() }, "items": items })
            .to_string()
    }
}

fn text(object: &Value, pointer: &str) -> String {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// A server for a store. Goes away with the value.
pub struct ApiServer {
    listening: Listening,
    store: Arc<Store>,
}

impl ApiServer {
    /// On a free port of loopback.
    pub fn start(store: &Arc<Store>) -> Self {
        Self::start_at(ANYWHERE, store)
    }

    /// Where an earlier one was.
    pub fn start_at(address: SocketAddr, store: &Arc<Store>) -> Self {
        let store = Arc::clone(store);
        let served = Arc::clone(&store);
        Self { listening: Listening::start_at(address, move |stream, stopped| serve(stream, &served, stopped)), store }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.listening.address()
    }

    /// Writes a kubeconfig for it into a directory, with a user as given.
    pub fn kubeconfig(&self, directory: &Path, user: &Value) -> PathBuf {
        kubeconfig(self.address(), directory, user)
    }
}

/// Writes a kubeconfig for a server at this address into a directory, with a user as given.
pub fn kubeconfig(address: SocketAddr, directory: &Path, user: &Value) -> PathBuf {
    let path = directory.join("kubeconfig");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{ "name": "test", "cluster": { "server": format!("http://{address}") } }],
        "users": [{ "name": "test", "user": user }],
        "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
    });
    std::fs::write(&path, config.to_string()).unwrap();
    path
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.listening.end(|| self.store.changed.notify_all());
    }
}

/// Answers one connection's requests, one after another.
fn serve(stream: &TcpStream, store: &Store, stopped: &AtomicBool) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    while let Some(head) = head(&mut reader)? {
        let (_, query) = divided(head.split(' ').nth(1).unwrap_or_default());
        let verb = if query.contains_key("watch") { "watch" } else { "list" };
        let node =
            query.get("fieldSelector").and_then(|field| field.strip_prefix("spec.nodeName%3D")).unwrap_or_default();
        let token =
            head.lines().find_map(|line| line.to_lowercase().strip_prefix("authorization: bearer ").map(str::to_owned));
        let mut content = store.content();
        let (since, time) = since_and_time(&query);
        let code = match &content.token {
            Some(good) if token.as_ref() != Some(good) => 401,
            _ if verb == "watch" && since < content.forgotten => 410,
            _ => 200,
        };
        *content.requests.entry((verb, code)).or_default() += 1;
        let list = (code == 200 && verb == "list").then(|| content.list(node));
        drop(content);
        match list {
            Some(list) => reply(stream, "200 OK", &list)?,
            None if code == 200 => watch(stream, store, stopped, node, since, time)?,
            None => reply(stream, if code == 401 { "401 Unauthorized" } else { "410 Gone" }, &failure(code))?,
        }
    }
    Ok(())
}

fn watch(
    stream: &TcpStream,
    store: &Store,
    stopped: &AtomicBool,
    node: &str,
    mut since: u64,
    time: Duration,
) -> std::io::Result<()> {
    let end = Instant::now() + time;
    let mut answer = Lines::begin(stream)?;
    let mut content = store.content();
    while !stopped.load(Ordering::Acquire) && Instant::now() < end {
        if since < content.forgotten {
            drop(content);
            answer.send_expired()?;
            break;
        }
        let first = content.history.partition_point(|(version, ..)| *version <= since);
        let news = content.history.range(first..).filter(|(_, of, _)| of == node);
        let lines: String = news.flat_map(|(.., line)| [line, "\n"]).collect();
        since = content.version;
        if lines.is_empty() {
            let (next, wait) = store.changed.wait_timeout(content, BOOKMARKS).unwrap();
            content = next;
            if wait.timed_out() && content.version == since {
                drop(content);
                answer.send(&bookmark("Pod", since))?;
                content = store.content();
            }
        } else {
            drop(content);
            answer.send(&lines)?;
            content = store.content();
        }
    }
    answer.end()
}
