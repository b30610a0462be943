//! OTLP over gRPC, with requests that are encoded already, which the generated clients do not take.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{BufMut as _, Bytes};
use http::uri::PathAndQuery;
use hyper::body::{Body, Frame, SizeHint};
use hyper_util::client::legacy::connect::HttpConnector;
use prost::Message as _;
use tonic::{
    Request, Status,
    client::{Grpc, GrpcService},
    codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::MetadataMap,
    transport::{Channel, Endpoint},
};

use super::{Accepted, Answer, Failure, OtlpConfig, OtlpConfigError, Service};
use crate::config::Compression;

/// Calls one service.
pub(super) struct Client {
    endpoint: Endpoint,
    path: PathAndQuery,
    metadata: MetadataMap,
    compression: Option<CompressionEncoding>,
    /// None before the first request and after a failure on this side.
    connected: Option<Channel>,
}

impl Client {
    pub(super) fn new(config: &OtlpConfig, service: Service) -> Result<Self, OtlpConfigError> {
        Ok(Self {
            endpoint: config.to_endpoint()?,
            path: PathAndQuery::from_static(service.grpc_path),
            metadata: config.to_metadata()?,
            compression: compression(config.compression),
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
        let channel = self.connected.get_or_insert_with(|| channel(&self.endpoint, timeout)).clone();
        let (path, metadata) = (self.path.clone(), self.metadata.clone());
        let request = |message| {
            let mut request = Request::new(message);
            *request.metadata_mut() = metadata;
            request.set_timeout(timeout);
            request
        };
        let answer = if let Some(encoding) = self.compression {
            let client = Grpc::new(channel).send_compressed(encoding);
            call(client, request(message), path).await
        } else {
            call(Grpc::new(Whole { channel, message }), request(Bytes::new()), path).await
        };
        match answer {
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

fn compression(compression: Compression) -> Option<CompressionEncoding> {
    match compression {
        Compression::None => None,
        Compression::Gzip => Some(CompressionEncoding::Gzip),
        Compression::Zstd => Some(CompressionEncoding::Zstd),
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

async fn call<T>(mut client: Grpc<T>, request: Request<Bytes>, path: PathAndQuery) -> Result<Answer, Status>
where
    T: GrpcService<tonic::body::Body>,
    T::ResponseBody: Body + Send + 'static,
    <T::ResponseBody as Body>::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    client.ready().await.map_err(|cause| Status::from_error(cause.into()))?;
    Ok(client.unary(request, path, Wire).await?.into_inner())
}

/// The channel for one call, whose message goes out from the memory that it is in: tonic would copy it into memory of its own.
struct Whole {
    channel: Channel,
    message: Bytes,
}

impl tower::Service<http::Request<tonic::body::Body>> for Whole {
    type Response = http::Response<tonic::body::Body>;
    type Error = tonic::transport::Error;
    type Future = <Channel as tower::Service<http::Request<tonic::body::Body>>>::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        tower::Service::poll_ready(&mut self.channel, context)
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let message = std::mem::take(&mut self.message);
        tower::Service::call(&mut self.channel, request.map(|_| tonic::body::Body::new(Framed::new(message))))
    }
}

/// A body of one message, not compressed, with gRPC's prefix.
struct Framed {
    prefix: Bytes,
    message: Bytes,
}

impl Framed {
    fn new(message: Bytes) -> Self {
        let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
        Self { prefix: [&[0], &length[..]].concat().into(), message }
    }
}

impl Body for Framed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let next =
            if self.prefix.is_empty() { std::mem::take(&mut self.message) } else { std::mem::take(&mut self.prefix) };
        Poll::Ready((!next.is_empty()).then(|| Ok(Frame::data(next))))
    }

    fn is_end_stream(&self) -> bool {
        self.prefix.is_empty() && self.message.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact((self.prefix.len() + self.message.len()) as u64)
    }
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
