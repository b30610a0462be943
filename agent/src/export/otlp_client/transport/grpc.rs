//! OTLP over gRPC, with requests that are encoded already, which the generated clients do not take.

use std::time::Duration;

use bytes::{BufMut as _, Bytes};
use http::uri::PathAndQuery;
use hyper_util::client::legacy::connect::HttpConnector;
use prost::Message as _;
use tonic::{
    Request, Status,
    client::Grpc,
    codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::MetadataMap,
    transport::{Channel, Endpoint},
};

use super::{Accepted, Answer, Failure, OtlpConfig, OtlpConfigError, Service};

/// Calls one service.
pub(super) struct Client {
    endpoint: Endpoint,
    path: PathAndQuery,
    metadata: MetadataMap,
    gzip: bool,
    /// None before the first request and after a failure on this side.
    connected: Option<Grpc<Channel>>,
}

impl Client {
    pub(super) fn new(config: &OtlpConfig, service: Service) -> Result<Self, OtlpConfigError> {
        Ok(Self {
            endpoint: config.to_endpoint()?,
            path: PathAndQuery::from_static(service.grpc_path),
            metadata: config.to_metadata()?,
            gzip: config.gzip,
            connected: None,
        })
    }

    pub(super) fn target(&self) -> String {
        super::http::without_credentials(self.endpoint.uri(), false)
    }

    /// The next request makes a new connection.
    pub(super) fn disconnect(&mut self) {
        self.connected = None;
    }

    /// One call. `timeout` is told to the receiver too.
    pub(super) async fn send(&mut self, message: Bytes, timeout: Duration) -> Result<Accepted, Failure> {
        let (endpoint, gzip) = (&self.endpoint, self.gzip);
        let client = self.connected.get_or_insert_with(|| {
            let client = Grpc::new(channel(endpoint, timeout));
            if gzip { client.send_compressed(CompressionEncoding::Gzip) } else { client }
        });
        let mut request = Request::new(message);
        *request.metadata_mut() = self.metadata.clone();
        request.set_timeout(timeout);
        match call(client, request, self.path.clone()).await {
            Ok(answer) => Ok(answer.into()),
            Err(status) => {
                // A status with a source was made on this side, also when its timer ends first.
                if std::error::Error::source(&status).is_some() {
                    self.disconnect();
                }
                Err(Failure::from_grpc(&status))
            }
        }
    }
}

/// Connects once something is sent, and anew after a failure. A peer that is gone without a word is given up when it has
/// acknowledged nothing for so long.
pub(super) fn channel(endpoint: &Endpoint, timeout: Duration) -> Channel {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_tcp_user_timeout(Some(timeout));
    endpoint.connect_with_connector_lazy(connector)
}

async fn call(client: &mut Grpc<Channel>, request: Request<Bytes>, path: PathAndQuery) -> Result<Answer, Status> {
    client.ready().await.map_err(|cause| Status::from_error(Box::new(cause)))?;
    Ok(client.unary(request, path, Wire).await?.into_inner())
}

/// Bytes out, a message in.
#[derive(Clone, Copy)]
struct Wire;

impl Codec for Wire {
    type Encode = Bytes;
    type Decode = Answer;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Wire {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, bytes: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.reserve(bytes.len());
        to.put(bytes);
        Ok(())
    }
}

impl Decoder for Wire {
    type Item = Answer;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        let answer = Answer::decode(from);
        answer.map(Some).map_err(|cause| Status::internal(format!("the receiver's answer is no OTLP: {cause}")))
    }
}
