# The image of `cargo xtask image` for those who have a container engine: the static binary and nothing else.
#   docker build -t podlens:0.1.0 .
# The project's own machines have no engine, so its tests build the same files with `cargo xtask image`, and this
# file is not executed there.

FROM rust:1.95-bookworm AS build
WORKDIR /src
# The versions and the reasons for them: docs/adr/0006-toolchain.md.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends musl-tools \
 && rm -rf /var/lib/apt/lists/* \
 && rustup component add rust-src \
 && rustup target add x86_64-unknown-linux-musl \
 && cargo install bpf-linker --version 0.10.4 --locked
COPY . .
RUN cargo build --release --locked --package podlens --target x86_64-unknown-linux-musl

FROM scratch
LABEL org.opencontainers.image.title="podlens" \
      org.opencontainers.image.description="CPU, memory, disk and network of pods, and who delayed whom, by eBPF" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /src/target/x86_64-unknown-linux-musl/release/podlens /podlens
USER 0
ENTRYPOINT ["/podlens"]
CMD ["run"]
