//! The export call with a request that is encoded already, which the generated client does not take.

use bytes::{BufMut as _, Bytes};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use prost::Message as _;
use tonic::{
    Request, Response, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Channel,
};

const EXPORT: &str = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export";

/// Calls the receiver once.
pub(super) async fn export(
    client: &mut Grpc<Channel>,
    request: Request<Bytes>,
) -> Result<Response<ExportMetricsServiceResponse>, Status> {
    client.ready().await.map_err(|cause| Status::unknown(format!("the connection is not ready: {cause}")))?;
    client.unary(request, http::uri::PathAndQuery::from_static(EXPORT), Wire).await
}

/// Bytes out, a message in.
#[derive(Clone, Copy)]
struct Wire;

impl Codec for Wire {
    type Encode = Bytes;
    type Decode = ExportMetricsServiceResponse;
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
    type Item = ExportMetricsServiceResponse;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        let answer = ExportMetricsServiceResponse::decode(from);
        answer.map(Some).map_err(|cause| Status::internal(format!("the receiver's answer is no OTLP: {cause}")))
    }
}
