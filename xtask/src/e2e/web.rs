//! The little HTTP that the checks need: one request a connection, no TLS. Called by the rest of this folder.

use std::{
    io::{BufRead, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};

/// The longest wait for a peer that says nothing.
const SILENCE: Duration = Duration::from_secs(10);

/// Asks and returns the answer's code and body.
pub(crate) fn ask(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let asked = || format!("cannot ask http://{address}{path}");
    let mut stream = TcpStream::connect_timeout(&address, SILENCE).with_context(asked)?;
    stream.set_read_timeout(Some(SILENCE)).with_context(asked)?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").with_context(asked)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).with_context(asked)?;
    let code = answer.split_whitespace().nth(1).and_then(|code| code.parse().ok());
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    code.zip(body).with_context(|| format!("cannot understand the answer of http://{address}{path}"))
}

/// Hands the body of each request to `take`, in a thread that ends with the process.
pub(super) fn serve(listener: TcpListener, mut take: impl FnMut(&[u8]) + Send + 'static) {
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A peer that breaks off sends again.
            let _ = receive(&stream).map(|body| take(&body));
        }
    });
}

fn receive(stream: &TcpStream) -> std::io::Result<Vec<u8>> {
    stream.set_read_timeout(Some(SILENCE))?;
    let mut reader = BufReader::new(stream);
    let (mut length, mut chunked) = (0, false);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.split_once(':') else {
            if line.trim().is_empty() {
                break;
            }
            continue;
        };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().map_err(std::io::Error::other)?,
            "transfer-encoding" => chunked = value.trim().eq_ignore_ascii_case("chunked"),
            _ => {}
        }
    }
    let mut body = Vec::new();
    if chunked {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let length = u64::from_str_radix(line.trim(), 16).map_err(std::io::Error::other)?;
            reader.by_ref().take(length).read_to_end(&mut body)?;
            reader.read_line(&mut line)?;
            if length == 0 {
                break;
            }
        }
    } else {
        reader.take(length).read_to_end(&mut body)?;
    }
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}"
    )?;
    Ok(body)
}

/// `text` as a value in a query.
pub(crate) fn encoded(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::{
        io::{Read as _, Write as _},
        net::{TcpListener, TcpStream},
        sync::mpsc,
        thread,
    };

    use super::{ask, encoded, serve};

    #[test]
    fn a_body_arrives_whole_with_a_length_and_in_chunks() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, receiver) = mpsc::channel();
        serve(listener, move |body| sender.send(body.to_vec()).unwrap());
        for request in [
            "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        ] {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
            assert_eq!(receiver.recv().unwrap(), b"hello");
        }
    }

    #[test]
    fn an_answer_is_its_code_and_its_body() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                head.extend(byte);
            }
            stream.write_all(b"HTTP/1.0 503 No\r\nA: b\r\n\r\nnot yet\n").unwrap();
        });
        assert_eq!(ask(address, "/readyz").unwrap(), (503, "not yet\n".to_owned()));
        server.join().unwrap();
    }

    #[test]
    fn a_query_keeps_its_meaning_in_a_path() {
        assert_eq!(encoded("a{b=\"c d\"}"), "a%7Bb%3D%22c%20d%22%7D");
    }
}
