//! Passwords and tokens: who gets in, what is checked, and what a change does.

use super::*;

#[tokio::test]
async fn a_page_is_for_those_with_a_password_or_a_token_and_the_probes_have_a_port_that_is_open() {
    let site = Site::new();
    site.secret.write("tokens", &format!("\n{TOKEN}\nanother-token-of-more-than-16\n"));
    let headers = "http_server_config: {headers: {X-Frame-Options: deny}}\n";
    let users = format!("basic_auth_users:\n{}{}", user("prom", "secret", 4), user("mom", "terces", 5));
    site.configure("", &format!("{headers}{users}bearer_token_file: tokens\n"));
    let running = site.start();

    for good in [
        password("prom", "secret"),
        password("mom", "terces"),
        format!("authorization: bearer {TOKEN}\r\n"),
        "authorization: Bearer another-token-of-more-than-16\r\n".to_owned(),
    ] {
        for path in ["/metrics", "/healthz", "/"] {
            let answer = site.get(&running, path, &good).await.unwrap();
            assert_eq!(answer.status, "HTTP/1.1 200 OK", "{path} {good}");
            assert_eq!(answer.header("x-frame-options"), Some("deny"));
        }
    }
    let wrong = [
        password("prom", "terces"),
        password("prom", ""),
        // Whichever user's hash is checked in the place of one that there is not.
        password("nobody", "secret"),
        password("nobody", "terces"),
        password("Prom", "secret"),
        format!("authorization: Bearer {TOKEN}x\r\n"),
        "authorization: Bearer \r\n".to_owned(),
        "authorization: Digest x\r\n".to_owned(),
        format!("{}{}", password("prom", "secret"), password("prom", "secret")),
    ];
    for (number, headers) in wrong.iter().enumerate() {
        // A wrong one is followed by a pause, in which the next one waits.
        let answer = site.get(&running, "/metrics", headers).await.unwrap();
        assert_eq!(answer.status, "HTTP/1.1 401 Unauthorized", "{headers}");
        assert_eq!(count(&running, Refusal::WrongCredentials), number as u64 + 1);
        assert_eq!(answer.header("x-frame-options"), Some("deny"));
    }
    for path in ["/metrics", "/healthz", "/readyz", "/", "/nothing"] {
        let answer = site.get(&running, path, "").await.unwrap();
        assert_eq!(answer.status, "HTTP/1.1 401 Unauthorized", "{path}");
        let challenges: Vec<&str> =
            answer.head.lines().filter_map(|line| line.strip_prefix("www-authenticate: ")).collect();
        assert_eq!(challenges, ["Basic realm=\"podlens\", charset=\"UTF-8\"", "Bearer realm=\"podlens\""]);
    }
    assert_eq!(count(&running, Refusal::MissingCredentials), 5);

    let health = running.health.unwrap();
    for (path, status) in
        [("/healthz", "200 OK"), ("/readyz", "503 Service Unavailable"), ("/metrics", "404 Not Found")]
    {
        assert_eq!(request(health, "GET", path, "").await.status, format!("HTTP/1.1 {status}"), "{path}");
    }
    assert_eq!(request(health, "POST", "/healthz", "").await.status, "HTTP/1.1 405 Method Not Allowed");
}

#[tokio::test]
async fn a_change_that_leaves_the_files_size_and_time_of_modification_is_read_all_the_same() {
    let site = Site::new();
    let web = |password: &str| format!("basic_auth_users:\n{}", user("prom", password, 4));
    let texts = [web("a"), web("b")];
    fs::write(site.secret.path("web.yaml"), &texts[0]).unwrap();
    let running = site.start();
    let get = |word: &str| {
        let headers = password("prom", word);
        let address = running.address;
        async move { request(address, "GET", "/metrics", &headers).await.status }
    };
    assert_eq!(get("a").await, "HTTP/1.1 200 OK");
    // In place, the same inode and size; the times are put back, as if the clock had not moved.
    let path = site.secret.path("web.yaml");
    let file = fs::File::options().write(true).open(&path).unwrap();
    let times = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, &texts[1]).unwrap();
    file.set_modified(times).unwrap();
    eventually_is(|| get("b"), "HTTP/1.1 200 OK").await;
    assert_eq!(get("a").await, "HTTP/1.1 401 Unauthorized");
}

#[tokio::test]
async fn a_user_who_is_taken_out_is_refused_at_once_and_nothing_is_opened_while_the_server_runs() {
    let site = Site::new();
    let both = format!("basic_auth_users:\n{}{}", user("prom", "secret", 4), user("mom", "terces", 4));
    site.configure("", &both);
    let running = site.start();
    let (prom, mom) = (password("prom", "secret"), password("mom", "terces"));
    assert_eq!(site.status(&running, &prom).await, "HTTP/1.1 200 OK");
    site.configure("", &format!("basic_auth_users:\n{}", user("mom", "terces", 4)));
    assert_eq!(site.status(&running, &prom).await, "HTTP/1.1 401 Unauthorized");
    assert_eq!(site.status(&running, &mom).await, "HTTP/1.1 200 OK");
    for opened in ["", "# basic_auth_users:\n", "basic_auth_users: {}\n"] {
        site.configure("", opened);
        assert_eq!(site.status(&running, "").await, "HTTP/1.1 401 Unauthorized", "{opened:?}");
        assert_eq!(site.status(&running, &mom).await, "HTTP/1.1 200 OK", "{opened:?}");
    }
    // Truncated, then gone: what held before holds on, TLS included.
    site.secret.write("web.yaml", "");
    assert_eq!(site.status(&running, "").await, "HTTP/1.1 401 Unauthorized");
    fs::remove_file(site.secret.path("web.yaml")).unwrap();
    assert_eq!(site.status(&running, "").await, "HTTP/1.1 401 Unauthorized");
    // Back again, within the time after which a failure is looked at anew.
    site.configure("", &both);
    eventually_is(async || site.status(&running, &prom).await, "HTTP/1.1 200 OK").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_scrapers_at_once_get_the_page_over_tls_for_one_check_of_their_password() {
    let site = Arc::new(Site::new());
    site.configure("", &format!("basic_auth_users:\n{}", user("prom", "secret", 8)));
    let running = Arc::new(site.start());
    let headers = password("prom", "secret");
    let began = Instant::now();
    let mut scrapers = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let (site, running, headers) = (Arc::clone(&site), Arc::clone(&running), headers.clone());
        scrapers.spawn(async move {
            // Of a connection that made room for another, a scraper tries again.
            loop {
                match site.get(&running, "/metrics", &headers).await {
                    Ok(answer) if !answer.status.is_empty() => return answer.status,
                    _ => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        });
    }
    let statuses = scrapers.join_all().await;
    assert!(statuses.iter().all(|status| status == "HTTP/1.1 200 OK"), "{statuses:?}");
    println!("100 scrapes took {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    assert_eq!(count(&running, Refusal::UncheckedCredentials), 0);
}

async fn get_from(from: &str, running: &Running, headers: &str) -> String {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
    let mut stream = socket.connect(running.address).await.unwrap();
    let request = format!("GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all).await;
    divided(&all).status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_guesses_passwords_has_few_of_them_checked_and_keeps_nobody_out() {
    let site = Site::new();
    // No TLS here: handshakes are not what is looked at.
    site.secret
        .write("web.yaml", &format!("basic_auth_users:\n{}{}", user("known", "secret", 6), user("new", "terces", 6)));
    let running = Arc::new(site.start());
    let known = password("known", "secret");
    assert_eq!(request(running.address, "GET", "/metrics", &known).await.status, "HTTP/1.1 200 OK");
    let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut guessing = tokio::task::JoinSet::new();
    for guesser in 0..20 {
        let (running, over) = (Arc::clone(&running), Arc::clone(&over));
        guessing.spawn(async move {
            let mut guesses = 0;
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                let headers = password("known", &format!("{guesser}-{guesses}"));
                let status = get_from(&format!("127.0.1.{}", guesser % 4), &running, &headers).await;
                assert!(!status.contains(" 200 "), "{status}");
                guesses += 1;
            }
            guesses
        });
    }
    tokio::time::sleep(SHORT).await;
    for round in 0..5 {
        let began = Instant::now();
        assert!(get_from("127.0.0.1", &running, &known).await.contains(" 200 "), "round {round}");
        assert!(began.elapsed() < Duration::from_secs(1), "one who is known waits {:?}", began.elapsed());
    }
    let began = Instant::now();
    assert!(get_from("127.0.0.2", &running, &password("new", "terces")).await.contains(" 200 "));
    println!("one who is new waited {:?}", began.elapsed());
    over.store(true, std::sync::atomic::Ordering::Relaxed);
    let guesses: i32 = guessing.join_all().await.into_iter().sum();
    let (checked, unchecked) =
        (count(&running, Refusal::WrongCredentials), count(&running, Refusal::UncheckedCredentials));
    println!("{guesses} guesses: {checked} checked, {unchecked} not");
    assert!(unchecked > 10 * checked && checked > 0, "{checked} were checked, {unchecked} were not");
}

#[tokio::test]
async fn without_tls_a_web_configuration_may_ask_for_credentials_all_the_same() {
    let site = Site::new();
    site.secret.write("tokens", TOKEN);
    site.secret.write("web.yaml", "bearer_token_file: tokens\n");
    let running = site.start();
    assert!(request(running.address, "GET", "/metrics", "").await.status.contains(" 401 "));
    let token = format!("authorization: Bearer {TOKEN}\r\n");
    assert!(request(running.address, "GET", "/metrics", &token).await.status.contains(" 200 "));
    site.secret.write("tokens", "fedcba9876543210\n");
    assert!(request(running.address, "GET", "/metrics", &token).await.status.contains(" 401 "));
    let token = "authorization: Bearer fedcba9876543210\r\n";
    assert!(request(running.address, "GET", "/healthz", token).await.status.contains(" 200 "));
}
